"""Measures tribody's engine on SmolLM2 in W8G32 beside llama.cpp on the same weights in Q8_0.

    .venv/bin/python bench/engine.py [--json [FILE]] [--profile] [--update-readme] …

Shapes: prefill of 512 tokens; decode of one sequence at several depths; decode of 8 and of 16
sequences at once.  Both engines run with the same number of threads, float16 KV and a step (ubatch)
of 512 tokens.  One warm-up of every shape, then `--repeats` rounds; in a round every shape is run
on both engines back to back, and the order turns round by round, so that a drift of the machine
meets both.  llama.cpp runs each shape with and without flash attention and is given the faster.
The machine should have nothing else to do; the load before the start is part of the result.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import machine
import measurements
import time_spent
from peer_process import PEER_PYTHON, PeerFailed, PeerProcess, make_q8_0
from subject import Shape, Subject, prompt
from tribody import _native
from tribody.loading.download import default_cache_dir
from tribody.loading.hub import resolve

SHAPES = (
    Shape("prefill", 1, 512, 0),
    Shape("decode", 1, 0, 128),
    Shape("decode", 1, 128, 128),
    Shape("decode", 1, 1024, 64),
    Shape("decode", 8, 128, 64),
    Shape("decode", 16, 128, 64),
)
BANDWIDTH_SECONDS = 0.3  # a round: some fifty passes over 143 MB at 25 GB/s
QUIET_LOAD = 0.5
QUICK_STEPS = 16  # --quick: enough to see that everything runs
PEER_CONTEXT = 1280  # tokens a sequence: the deepest shape and its steps, in whole KV pages of 256

VARIANTS = {"flash": True, "no flash": False}  # llama.cpp's two attention paths

Samples = defaultdict[tuple[Shape, str], list[float]]  # tokens per second by shape and engine


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2", help="a name or path that tribody knows")
    parser.add_argument("--weight-format", default="w8g32", help="tribody's run-time format")
    parser.add_argument("--threads", type=int, default=0, help="for both (0 = physical cores)")
    parser.add_argument("--isa", choices=_native.isa_levels(), help="tribody's instruction set")
    parser.add_argument(
        "--peer-python", type=Path, default=PEER_PYTHON, help="another build of llama.cpp"
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds after the warm-up")
    parser.add_argument("--quick", action="store_true", help="two short rounds: is it sound?")
    parser.add_argument("--no-peer", action="store_true", help="tribody alone")
    parser.add_argument("--profile", action="store_true", help="show where a step's time goes")
    parser.add_argument("--json", nargs="?", const="-", help="append JSON lines to FILE, or stdout")
    parser.add_argument("--update-readme", action="store_true", help="renew the tables in README")
    return parser.parse_args(arguments)


def measure(
    subject: Subject, peer: PeerProcess | None, shapes: Sequence[Shape], repeats: int
) -> tuple[Samples, float]:
    """Rates of every shape on both engines; the first round is a warm-up and is not kept.

    Also the best bandwidth of all rounds, read from a buffer of the weights' size.
    """
    samples: Samples = defaultdict(list)
    info, bandwidth = subject.info, 0.0
    engines = ["tribody", *(VARIANTS if peer else ())]
    for round_index in range(repeats + 1):
        order = engines if round_index % 2 else engines[::-1]
        for shape in shapes:
            for engine in order:
                if engine == "tribody":
                    seconds = subject.run(shape, seed=round_index)
                else:
                    assert peer is not None
                    seconds = peer_seconds(peer, subject, shape, round_index, VARIANTS[engine])
                if round_index:
                    samples[shape, engine].append(shape.num_tokens / seconds)
        read = machine.read_bandwidth(info.weight_bytes, info.num_threads, BANDWIDTH_SECONDS)
        bandwidth = max(bandwidth, read)
    return samples, bandwidth


def peer_seconds(
    peer: PeerProcess, subject: Subject, shape: Shape, seed: int, flash: bool
) -> float:
    if shape.kind == "prefill":
        tokens = prompt(subject.info.vocab_size, shape.depth, seed)
        return float(peer.ask("prefill", tokens=tokens, flash=flash)["seconds"])
    answer = peer.ask(
        "decode", batch=shape.batch, depth=shape.depth, steps=shape.steps, flash=flash, seed=seed
    )
    return float(answer["seconds"])


def rows(
    subject: Subject, shapes: Sequence[Shape], samples: Samples, bandwidth: float
) -> list[measurements.Row]:
    """One row a shape, with the peer's better variant and the bytes that a step reads."""
    made = []
    for shape in shapes:
        medians = {
            name: statistics.median(samples[shape, name])
            for name in VARIANTS
            if samples[shape, name]
        }
        variant = max(medians, key=medians.__getitem__, default="")
        depth = shape.depth + shape.steps / 2
        read = subject.info.weight_bytes + shape.batch * depth * subject.kv_token_bytes()
        made.append(
            measurements.Row(
                shape=shape,
                rates=tuple(samples[shape, "tribody"]),
                peer_rates=tuple(samples[shape, variant]),
                peer_variant=variant,
                bytes_per_step=read,
                bandwidth=bandwidth,
            )
        )
    return made


def report(
    options: argparse.Namespace, run: measurements.Run, made: Sequence[measurements.Row]
) -> None:
    measurements.print_table(run, made, Console(stderr=options.json == "-", width=120))
    lines = measurements.json_lines(run, made)
    if options.json == "-":
        print(lines, end="")
    elif options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(lines)
    if options.update_readme:
        for name in ("README.md", "README.zh-CN.md"):
            measurements.update_readme(machine.ROOT / name, run, made)


def compare(
    options: argparse.Namespace,
    subject: Subject,
    peer: PeerProcess | None,
    peer_name: str,
    load: float,
) -> None:
    shapes: tuple[Shape, ...] = SHAPES
    repeats = options.repeats
    if options.quick:
        shapes = tuple(Shape(s.kind, s.batch, s.depth, min(s.steps, QUICK_STEPS)) for s in SHAPES)
        repeats = 2
    samples, bandwidth = measure(subject, peer, shapes, repeats)
    run = measurements.Run(
        commit=machine.commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine.describe(),
        load=round(load, 2),
        num_threads=subject.info.num_threads,
        isa=subject.info.isa,
        weight_format=subject.info.weight_format,
        peer=peer_name,
        bandwidth=bandwidth,
        memory_bandwidth=machine.read_bandwidth(
            machine.BEYOND_CACHES_BYTES, subject.info.num_threads, 1.0
        ),
    )
    report(options, run, rows(subject, shapes, samples, bandwidth))


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        print(f"the machine is busy (load {load:.1f}): the numbers will say so", file=sys.stderr)
    if options.isa:
        _native.set_isa(options.isa)
    cache = default_cache_dir(os.environ)
    path = resolve(options.model, cache_dir=cache)
    subject = Subject(path, options.threads, weight_format=options.weight_format)
    if options.profile:
        time_spent.show(subject, SHAPES, Console(width=120))
        return 0
    if options.no_peer:
        compare(options, subject, None, "no peer", load)
        return 0
    try:
        quantized = make_q8_0(path, cache / "bench")
        with PeerProcess(options.peer_python) as peer:
            threads = subject.info.num_threads
            facts = peer.ask("load", path=str(quantized), threads=threads, context=PEER_CONTEXT)
            compare(options, subject, peer, f"llama-cpp-python {facts['version']}", load)
    except PeerFailed as problem:
        print(f"{problem}; --no-peer measures tribody alone", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
