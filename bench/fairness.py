"""What a flood of one tenant does to another's requests: the real scheduler over scripted steps.

    .venv/bin/python bench/fairness.py

No model and no machine: a step is a step, so that the waits, in steps, are the same everywhere.  A
tenant has 1,000 requests in the queue; another sends one every 50 steps.  Eight run at once.  With
all requests one tenant's the queue is in order of arrival, which is what there was without tenants.
`choosing_us`: processor time to say who is next, with one request of each of 1,000 tenants waiting
and 64 running.
"""

from __future__ import annotations

import json
import statistics
import time
import zlib

from tribody.core.config import SchedulerConfig
from tribody.core.request import Request, SampledToken, SamplingParams, StepResult
from tribody.scheduling.scheduler import Scheduler

EOS = 1
FLOOD, PROMPT, COMPLETION = 1000, 200, 100
EVERY, SINGLES = 50, 20


def scheduler_for(max_running: int) -> Scheduler:
    config = SchedulerConfig(
        num_pages=20_000, max_context_tokens=4096, max_running=max_running, max_waiting=2048
    )
    return Scheduler(config, frozenset([EOS]), b"bench")


def request(rid: str, tenant: str, weight: int = 1) -> Request:
    """It asks for forty times what it takes."""
    prompt = [zlib.crc32(rid.encode()) % 1000 + 2] * PROMPT
    sampling = SamplingParams(max_tokens=3800)
    return Request(id=rid, prompt_token_ids=prompt, sampling=sampling, tenant=tenant, weight=weight)


def step(scheduler: Scheduler, served: dict[str, int]) -> list[str]:
    """The requests whose first token came; counts the tokens of each by its id's first word."""
    plan = scheduler.plan()
    if plan is None:
        return []
    result = StepResult(plan.step_id, [])
    for slot in (slot for chunk in plan.chunks for slot in chunk.samples):
        last = slot.position + 1 == COMPLETION
        result.tokens.append(SampledToken(slot.sequence_id, EOS if last else 2))
    begun = []
    for event in scheduler.apply(plan, result, {}):
        name = event.request_id.split()[0]
        served[name] = served.get(name, 0) + len(event.token_ids)
        if event.cached_tokens is not None:
            served[name] += PROMPT
            begun.append(event.request_id)
    return begun


def waits(*, fair: bool) -> dict[str, object]:
    """Steps from a request's arrival to its first token."""
    scheduler, served = scheduler_for(8), dict[str, int]()
    for i in range(FLOOD):
        scheduler.add(request(f"flood {i}", "flood"))
    came: dict[str, int] = {}
    found: list[int] = []
    now = 0
    while len(found) < SINGLES:
        if now % EVERY == 0 and now and len(came) < SINGLES:
            rid = f"single {now}"
            scheduler.add(request(rid, "single" if fair else "flood"))
            came[rid] = now
        begun = step(scheduler, served)
        now += 1
        found += [now - came[rid] for rid in begun if rid in came]
    return {
        "median_steps": statistics.median(found),
        "max_steps": max(found),
        "flood_tokens_per_step": round(served["flood"] / now, 1),
    }


def shares(weights: tuple[int, int], steps: int = 4000) -> dict[str, object]:
    scheduler, served = scheduler_for(8), dict[str, int]()
    for i in range(FLOOD):
        for name, weight in zip(("first", "second"), weights, strict=True):
            scheduler.add(request(f"{name} {i}", name, weight))
    for _ in range(steps):
        step(scheduler, served)
    assert scheduler.num_unfinished > 100, "both were to have some waiting"
    ratio = served["first"] / served["second"]
    return {"weights": weights, "tokens": served, "ratio": round(ratio, 3)}


def choosing(num_tenants: int) -> dict[str, object]:
    scheduler, served = scheduler_for(64), dict[str, int]()
    for i in range(num_tenants + 64):
        scheduler.add(request(f"t{i} x", f"t{i % num_tenants}"))
    for _ in range(40):
        step(scheduler, served)
    rounds = 200
    started = time.process_time()
    for _ in range(rounds):
        scheduler.waiting.first()
    seconds = (time.process_time() - started) / rounds
    return {"tenants": num_tenants, "choosing_us": round(seconds * 1e6, 1)}


def main() -> None:
    print(json.dumps({"order": "arrival"} | waits(fair=False)))
    print(json.dumps({"order": "fair"} | waits(fair=True)))
    for weights in ((1, 1), (2, 1), (5, 1)):
        print(json.dumps(shares(weights)))
    for num_tenants in (1, 10, 100, 1000):
        print(json.dumps(choosing(num_tenants)))


if __name__ == "__main__":
    main()
