"""From samples to rows: medians, the best peer, ratios, shares of the machine; files cut short."""

import json

import pytest

from cells import PAIRINGS
from measurements import quantile, rows_of, serve_rows_of
from records import FILE, RecordFile, read_records

PLACE = {"model": "m", "pairing": "8-bit"}


def sample(
    program: str, number: int, rate: float, *, variant: str = "", weights: str = "w"
) -> dict:
    """A sample of the cell batch-4, at that many tokens per second."""
    engine = {"program": program, "weights": weights, "variant": variant}
    timing = {"round": number, "tokens": 100, "seconds": 100 / rate, "other_work": 0.02}
    return {"record": "sample", **PLACE, "cell": "batch-4", **engine, **timing}


def run(*samples: dict) -> list[dict]:
    """Samples with what they need around them."""
    cell = {"cell": "batch-4", "title": "t", "batch": 4, "tokens": 100}
    work = {"weights": 1000, "kv_bytes": 500, "macs": 200_000}
    engine = {"program": "tribody", "weights": "w", "bits_per_weight": 8.5}
    limits = {"bytes_per_second": 50_000.0, "macs_per_second": 1e6}
    return [
        {"record": "cell", **PLACE, **cell, **work},
        {"record": "engine", **PLACE, **engine},
        {"record": "limits", **PLACE, **limits},
        {"record": "limits", **PLACE, **{name: value / 2 for name, value in limits.items()}},
        *samples,
    ]


def test_quantile() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([1, 2], 0.5) == 1.5
    assert quantile([1, 2, 3], 1.0) == 3
    assert quantile([5], 0.99) == 5


def test_a_pairing_limited_to_an_instruction_set_has_rows_of_its_own() -> None:
    limited = {"pairing": PAIRINGS[0].limited_to("avx2").name}
    both = run(sample("tribody", 1, 100), sample("llama.cpp", 1, 50))
    both += [r | limited for r in run(sample("tribody", 1, 30), sample("llama.cpp", 1, 20))]
    rows = rows_of(both)
    assert [row.pairing for row in rows] == ["8-bit", "8-bit, all on avx2"]
    assert [row.ratio for row in rows] == pytest.approx([2.0, 1.5])


def test_the_warm_up_does_not_count_and_the_better_peer_does() -> None:
    (row,) = rows_of(
        run(
            *(sample("tribody", n, rate) for n, rate in enumerate((1, 100, 120, 140))),
            *(sample("llama.cpp", n, r, variant="flash") for n, r in enumerate((999, 50, 60, 70))),
            *(sample("llama.cpp", n, r, variant="no flash") for n, r in enumerate((999, 40, 61))),
            *(sample("transformers", n, r) for n, r in enumerate((999, 5, 6, 7))),
        )
    )
    assert row.ours.median == pytest.approx(120)
    best = row.best()
    assert best is not None
    assert best.engine.variant == "flash"
    assert row.ratio == pytest.approx(2.0)
    assert row.ratio_range == pytest.approx((2.0, 2.0))
    transformers = row.best("transformers")
    assert transformers is not None
    assert transformers.median == pytest.approx(6)


def test_ratios_of_rounds_pair_equal_rounds() -> None:
    """A round that a killed run did not finish has no pair."""
    (row,) = rows_of(
        run(
            *(sample("tribody", n, rate) for n, rate in ((1, 100), (2, 100), (3, 1000))),
            *(sample("llama.cpp", n, rate) for n, rate in ((1, 50), (2, 25))),
        )
    )
    assert row.ratio_range == pytest.approx((2.0, 4.0))


def test_a_cell_that_is_measured_once_has_its_warm_up() -> None:
    (row,) = rows_of(run(sample("tribody", 1, 100), sample("transformers", 0, 4)))
    best = row.best()
    assert best is not None
    assert best.rates == pytest.approx((4,))
    assert row.ratio == pytest.approx(25)
    assert row.ratio_range is None


def test_shares_of_the_machine() -> None:
    """A step of 4 sequences reads 1000 weights of 8.5 bits and 500 bytes of KV."""
    (row,) = rows_of(run(sample("tribody", 1, 40)))
    assert row.step_bytes == pytest.approx(1562.5)
    assert row.bytes_per_second == pytest.approx(15625)
    assert row.bandwidth_share == pytest.approx(15625 / 50_000)
    assert row.arithmetic_share == pytest.approx(40 * 2000 / 1e6)
    assert row.ratio is None


def test_peers_alone_make_no_row() -> None:
    assert rows_of(run(sample("llama.cpp", 1, 40))) == []


def test_serving_joins_repeats() -> None:
    place = {"record": "serve", "model": "m", "server": "tribody", "clients": 4}
    counts = {"requests": 8, "prompt_tokens": 1000, "cached_tokens": 250}
    first = {**place, "repeat": 0, **counts, "errors": 0, "output_tokens": 100, "seconds": 2.0}
    second = {**place, "repeat": 1, **counts, "errors": 1, "output_tokens": 120, "seconds": 1.0}
    (row,) = serve_rows_of(
        [{**first, "firsts": [0.1], "gaps": [0.5]}, {**second, "firsts": [0.2], "gaps": []}]
    )
    assert row.rates == (50, 120)
    assert row.rate == 85
    assert row.total_rates == (550, 1120)
    assert row.firsts == (0.1, 0.2)
    assert (row.requests, row.errors, row.cached_share) == (16, 1, 0.25)


def test_a_file_that_was_cut_short_is_read_and_continued(tmp_path) -> None:
    file = RecordFile(tmp_path)
    file.add("run", {"commit": "a"})
    path = tmp_path / FILE
    path.write_text(path.read_text() + '{"record": "sample", "sec')
    continued = RecordFile(tmp_path)
    assert [record["record"] for record in continued.records] == ["run"]
    continued.add("sample", {"seconds": 1.0})
    assert [record["record"] for record in read_records(path)] == ["run", "sample"]
    assert json.loads(path.read_text().splitlines()[-1]) == {"record": "sample", "seconds": 1.0}
