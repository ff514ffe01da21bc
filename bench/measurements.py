"""From samples to rows: medians, spreads, ratios, and shares of what the machine can do.  Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cells import CELLS, LIMIT, PAIRINGS, Engine
from records import Record, of_kind

OURS = "tribody"


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two neighbours: quantile(x, 0.5) is the median."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True, slots=True)
class Series:
    """One engine in one cell.  Rates are tokens per second over all sequences, one a round."""

    engine: Engine
    rates: tuple[float, ...]
    rounds: tuple[int, ...]  # (0,): only the warm-up, because the cell takes too long

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True, slots=True)
class Row:
    """One cell on all engines of a pairing.

    `step_bytes` are read by one step of a decode (0: a prefill),
    `token_macs` multiply-adds with weights for each token; `bandwidth` and `macs_per_second` are
    the machine's, measured in the same rounds.
    """

    model: str
    pairing: str
    cell: str
    title: str
    batch: int
    ours: Series
    peers: tuple[Series, ...]
    step_bytes: float
    token_macs: float
    bandwidth: float
    macs_per_second: float

    def best(self, program: str = "") -> Series | None:
        """The fastest peer by median, of one program or of all."""
        peers = [peer for peer in self.peers if program in ("", peer.engine.program)]
        return max(peers, key=lambda peer: peer.median, default=None)

    @property
    def ratio(self) -> float | None:
        """Of the medians, to the best peer."""
        best = self.best()
        return None if best is None else self.ours.median / best.median

    @property
    def ratio_range(self) -> tuple[float, float] | None:
        """Smallest and largest ratio within a round: its engines ran back to back."""
        best = self.best()
        if best is None:
            return None
        theirs = dict(zip(best.rounds, best.rates, strict=True))
        pairs = zip(self.ours.rounds, self.ours.rates, strict=True)
        ratios = [rate / theirs[number] for number, rate in pairs if number in theirs]
        return (min(ratios), max(ratios)) if ratios else None

    @property
    def bytes_per_second(self) -> float | None:
        """Decode only: a prefill is bound by arithmetic."""
        return self.step_bytes * self.ours.median / self.batch if self.step_bytes else None

    @property
    def bandwidth_share(self) -> float | None:
        read = self.bytes_per_second
        return read / self.bandwidth if read and self.bandwidth else None

    @property
    def arithmetic_share(self) -> float | None:
        if not self.macs_per_second:
            return None
        return self.token_macs * self.ours.median / self.macs_per_second


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Every cell that tribody ran, by model, then pairing, then cell in the order of `cells`."""
    rates: dict[tuple[str, str, str], dict[Engine, dict[int, float]]] = {}
    for sample in of_kind(records, "sample"):
        place = (str(sample["model"]), str(sample["pairing"]), str(sample["cell"]))
        engine = Engine(str(sample["program"]), str(sample["weights"]), str(sample["variant"]))
        rate = _number(sample, "tokens") / _number(sample, "seconds")
        rates.setdefault(place, {}).setdefault(engine, {})[int(_number(sample, "round"))] = rate
    limits = _limits(records)
    cells = {(r["model"], r["cell"]): r for r in of_kind(records, "cell")}
    engines = {
        (r["model"], r["pairing"], r["program"], r["weights"]): r
        for r in of_kind(records, "engine")
    }
    rows = []
    for place in sorted(rates, key=lambda place: _order(place, records)):
        model, pairing, name = place
        series = {engine: _series(engine, found) for engine, found in rates[place].items()}
        ours = next((s for e, s in series.items() if e.program == OURS), None)
        if ours is None:
            continue
        cell = cells[model, name]
        loaded = engines[model, pairing, OURS, ours.engine.weights]
        weights_bytes = _number(cell, "weights") * _number(loaded, "bits_per_weight") / 8
        bandwidth, macs = limits.get((model, pairing), (0.0, 0.0))
        rows.append(
            Row(
                model=model,
                pairing=pairing,
                cell=name,
                title=str(cell["title"]),
                batch=int(_number(cell, "batch")),
                ours=ours,
                peers=tuple(s for e, s in series.items() if e.program != OURS),
                step_bytes=weights_bytes + _number(cell, "kv_bytes"),
                token_macs=_number(cell, "macs") / _number(cell, "tokens"),
                bandwidth=bandwidth,
                macs_per_second=macs,
            )
        )
    return rows


def _series(engine: Engine, by_round: Mapping[int, float]) -> Series:
    """The warm-up (round 0) counts only where there is nothing else."""
    numbers = tuple(sorted(n for n in by_round if n or len(by_round) == 1))
    return Series(engine, tuple(by_round[n] for n in numbers), numbers)


def _limits(records: Iterable[Record]) -> dict[tuple[str, str], tuple[float, float]]:
    """(model, pairing) -> bytes per second, multiply-adds per second: the best of all rounds."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for record in of_kind(records, "limits"):
        place = (str(record["model"]), str(record["pairing"]))
        bandwidth, macs = found.get(place, (0.0, 0.0))
        found[place] = (
            max(bandwidth, _number(record, "bytes_per_second")),
            max(macs, _number(record, "macs_per_second")),
        )
    return found


def _order(place: tuple[str, str, str], records: Sequence[Record]) -> tuple[int, int, int]:
    model, pairing, cell = place
    models = list(dict.fromkeys(str(r["model"]) for r in of_kind(records, "cell")))
    pairings = [p.name for p in PAIRINGS]
    cells = [c.name for c in CELLS]
    return models.index(model), pairings.index(pairing.partition(LIMIT)[0]), cells.index(cell)


def _number(record: Record, key: str) -> float:
    value = record[key]
    assert isinstance(value, int | float), f"{key} is {value!r}"
    return value


# --- Serving ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServeRow:
    """One number of clients on one server, all repeats.  Times are in seconds.

    `gaps` lie between two pieces of content of one answer, `firsts` between sending a request and
    its first piece; both of all requests of all repeats.  `rates`: output tokens per second, one a
    repeat.
    """

    model: str
    server: str
    clients: int
    rates: tuple[float, ...]
    total_rates: tuple[float, ...]  # prompt tokens counted as well
    firsts: tuple[float, ...]
    gaps: tuple[float, ...]
    requests: int
    errors: int
    cached_share: float  # of the prompt tokens

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def serve_rows_of(records: Sequence[Record]) -> list[ServeRow]:
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in of_kind(records, "serve"):
        place = (str(record["model"]), str(record["server"]), int(_number(record, "clients")))
        groups.setdefault(place, []).append(record)
    return [_serve_row(*place, group) for place, group in groups.items()]


def _serve_row(model: str, server: str, clients: int, repeats: Sequence[Record]) -> ServeRow:
    def total(key: str) -> float:
        return sum(_number(record, key) for record in repeats)

    def numbers(key: str) -> tuple[float, ...]:
        lists = [record[key] for record in repeats]
        return tuple(float(x) for found in lists if isinstance(found, list) for x in found)

    def rates(*keys: str) -> tuple[float, ...]:
        return tuple(sum(_number(r, key) for key in keys) / _number(r, "seconds") for r in repeats)

    return ServeRow(
        model=model,
        server=server,
        clients=clients,
        rates=rates("output_tokens"),
        total_rates=rates("output_tokens", "prompt_tokens"),
        firsts=numbers("firsts"),
        gaps=numbers("gaps"),
        requests=int(total("requests")),
        errors=int(total("errors")),
        cached_share=total("cached_tokens") / max(1.0, total("prompt_tokens")),
    )
