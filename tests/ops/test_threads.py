"""The worker pool: any number of threads gives the same bits; forks and other threads are safe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import numpy as np
import pytest

from tests.ops.cases import draw
from tribody import _native
from tribody.ops import native
from tribody.ops.table import F32


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = _native.num_threads()
    yield
    _native.set_num_threads(before)


def work() -> F32:
    rng = np.random.default_rng(1)
    x, norm = draw(rng, (40, 192)), np.ones(192, np.float32)
    gate_up = native.OPS.pack(draw(rng, (512, 192)) / np.float32(16), "w8g32")
    down = native.OPS.pack(draw(rng, (192, 256)) / np.float32(16), "w8g32")
    for _ in range(5):
        native.OPS.norm_mlp(x, norm, 1e-5, gate_up, down)
    return x


def test_any_number_of_threads_gives_the_same_bits() -> None:
    results = []
    for count in (1, 2, 5):
        _native.set_num_threads(count)
        assert _native.num_threads() == count
        results.append(work())
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_python_threads_may_share_the_kernels() -> None:
    _native.set_num_threads(2)
    expected = work()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: work(), range(8)))
    assert all(np.array_equal(result, expected) for result in results)


def send_work(connection: Connection) -> None:
    connection.send_bytes(work().tobytes())


def test_a_forked_child_has_workers_of_its_own() -> None:
    _native.set_num_threads(2)
    expected = work()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=send_work, args=(sender,))
    child.start()
    assert receiver.poll(20)
    assert receiver.recv_bytes() == expected.tobytes()
    child.join(20)
    assert child.exitcode == 0


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_absurd_numbers_of_threads_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="num_threads"):
        _native.set_num_threads(count)


def test_bandwidth_is_a_positive_number() -> None:
    assert _native.memory_bandwidth(0.01) > 1e8


def test_unknown_instruction_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="avx9000"):
        _native.set_isa("avx9000")
    assert _native.isa_levels()[0] == "portable"
