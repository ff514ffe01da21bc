"""Run checks one after the other and say what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import httpx2
import msgspec

from tribody.conformance.check import Check, Section
from tribody.conformance.target import Target
from tribody.conformance.verdict import Failed, Skipped
from tribody.core.api_settings import ProfileName

Status = Literal["passed", "failed", "skipped"]


class Outcome(msgspec.Struct, frozen=True):
    """What one check found; `detail` says expected and got, or why it was skipped."""

    id: str
    section: str
    title: str
    status: Status
    detail: str = ""
    milliseconds: int = 0


class Report(msgspec.Struct, frozen=True):
    """All of it, as `--json` prints it."""

    passed: int
    failed: int
    skipped: int
    url: str
    model: str
    profile: ProfileName
    scripted: bool
    seconds: float
    checks: list[Outcome]


def run_checks(
    target: Target, sections: Sequence[Section], tell: Callable[[Outcome], None]
) -> Report:
    """Run those checks of `sections` that belong to the target's profile; `tell` hears of each."""
    started = time.monotonic()
    outcomes = []
    for section in sections:
        for check in section.checks:
            if target.profile in check.profiles:
                outcome = run_check(target, section.name, check)
                tell(outcome)
                outcomes.append(outcome)
    counts = {status: sum(o.status == status for o in outcomes) for status in STATUSES}
    return Report(
        passed=counts["passed"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        url=target.client.base,
        model=target.model,
        profile=target.profile,
        scripted=target.scripted,
        seconds=round(time.monotonic() - started, 3),
        checks=outcomes,
    )


STATUSES: tuple[Status, ...] = ("passed", "failed", "skipped")


def run_check(target: Target, section: str, check: Check) -> Outcome:
    started = time.monotonic()
    status, detail = _verdict(target, check)
    if target.client.key:
        detail = detail.replace(target.client.key, "<key>")
    milliseconds = round((time.monotonic() - started) * 1e3)
    return Outcome(check.id, section, check.title, status, detail, milliseconds)


def _verdict(target: Target, check: Check) -> tuple[Status, str]:
    try:
        for need in check.needs:
            reason = target.missing(need)
            if reason is not None:
                return "skipped", reason
        check.run(target)
    except Skipped as reason:
        return "skipped", str(reason)
    except Failed as failure:
        return "failed", str(failure)
    except httpx2.TimeoutException:
        return "failed", "expected an answer; got a silence that was too long"
    except httpx2.HTTPError as error:
        return "failed", f"expected an answer; got a broken connection ({type(error).__name__})"
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        # A stranger's answer may have any shape; what trips a check is not what the contract says.
        return "failed", f"expected the documented shape; got one that reads as {error!r}"
    return "passed", ""
