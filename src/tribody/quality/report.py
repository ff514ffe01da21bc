"""What a measurement found, in the form that `--json` prints.  docs/quality.md explains the keys.

Shares are in [0, 1], lengths in tokens, divergences in nats per token, sizes in bytes.
"""

from __future__ import annotations

import msgspec

from tribody.quality.distribution import Distance
from tribody.quality.tasks import Flips, TaskScore


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """The file of questions, how many of them were asked, or why none was."""

    path: str
    sha256: str
    num_items: int
    num_asked: int
    skipped: str | None


class Corpus(msgspec.Struct, frozen=True, kw_only=True):
    """What distributions were compared on.  `sha256` is of the whole text or file."""

    name: str
    source: str
    sha256: str
    num_chunks: int
    num_predicted_tokens: int


class FormatReport(msgspec.Struct, frozen=True, kw_only=True):
    """One precision; the reference's `flips` and `distribution` are empty."""

    name: str
    weight_format: str
    kv_format: str
    weight_bytes: int
    scores: list[TaskScore]
    flips: list[Flips]
    distribution: list[Distance]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, as `--json` prints it.  Keys: docs/quality.md."""

    tribody_version: str
    model: str
    model_type: str
    isa: str
    num_threads: int
    context_tokens: int
    max_answer_tokens: int
    held_out: HeldOut | None
    corpora: list[Corpus]
    reference: FormatReport
    noise_floor: list[Distance]
    formats: list[FormatReport]
