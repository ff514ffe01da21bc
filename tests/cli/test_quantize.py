"""`tribody quantize`: what may be asked for together, and what is said when it is missed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tribody.cli.engine_options import EngineOptions
from tribody.cli.quantize import QuantizeOptions, run, shortfalls
from tribody.core.errors import BadConfig
from tribody.quality.statistics import Interval
from tribody.tuning.manifest import Calibration, Manifest, Speed, Verification

MANIFEST = Manifest(
    tribody_version="0",
    source="m",
    source_fingerprint="f",
    budget=0.99,
    target_bits_per_weight=None,
    bits_per_weight=5.0,
    weight_bytes=10,
    recovery=0.985,
    speed=Speed(
        target=3.2,
        predicted_decode_ratio=3.3,
        decode_ratio=3.1,
        decode_ratio_interval=Interval(3.0, 3.25),
        prefill_ratio=2.0,
        prefill_tokens=512,
    ),
    calibration=Calibration(source="s", sha256="0", num_tokens=1),
    verification=Verification(
        corpus="text",
        sha256="0",
        num_tokens=1,
        kl_mean_nats=0.015,
        kl_mean_interval_nats=Interval(0.009, 0.02),
        perplexity_ratio=1.0,
        perplexity_ratio_interval=None,
        top1_agreement=1.0,
        correct_to_wrong=0,
        wrong_to_correct=0,
        mcnemar_p=1.0,
    ),
    matrices={},
    frontier=[],
)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "give --budget"),
        ({"bits": 4.5, "budget": "99%"}, "stands alone"),
        ({"bits": 4.5, "speed": 3.0}, "stands alone"),
        ({"bits": 0.5}, "between 1 and 32"),
        ({"speed": 0.0}, "times of float16"),
        ({"budget": "10%"}, "give a share"),
        ({"budget": "much", "speed": 3.0}, "give a share"),
        ({"budget": "99%", "out": Path("model.gguf")}, "must end with"),
        ({"bits": 5, "formats": "w4m32,w3m32"}, "name some of w8g32, w6g32"),
        ({"bits": 5, "formats": ","}, "name some of"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_loaded(asked, words: str) -> None:
    goal = {"budget": None, "speed": None, "bits": None, "formats": "w8g32, w4m32"}
    given = {**goal, "out": Path("model.tribody"), **asked}
    options = QuantizeOptions(model="mini-r1", text=None, tokens=64, as_json=False, **given)
    with pytest.raises(BadConfig, match=words):
        run(options, EngineOptions())


def test_what_is_missed_by_chance_is_not_said() -> None:
    assert shortfalls(MANIFEST) == []


def test_what_is_missed_beyond_chance_is_said_with_numbers() -> None:
    speed, check = MANIFEST.speed, MANIFEST.verification
    assert speed is not None
    slow = msgspec.structs.replace(speed, decode_ratio_interval=Interval(3.0, 3.15))
    far = msgspec.structs.replace(check, kl_mean_interval_nats=Interval(0.012, 0.02))
    missed = shortfalls(msgspec.structs.replace(MANIFEST, speed=slow, verification=far))
    assert missed == [
        "--budget 99.00% is missed: 98.50% on the held-out text, 98.81% at most: ask for more",
        "--target-speed 3.2 is missed: 3.10 times, 3.15 at most: ask for more",
    ]
