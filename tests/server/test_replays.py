"""Idempotency-Key: sent twice, answered once."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.scripted import ScriptedEngine, client_of, run_server, scripted_model
from tribody.core.clock import ManualClock
from tribody.core.errors import BadRequest
from tribody.server import replays
from tribody.server.replays import Identity, Replays


class Maker:
    """Counts how often it is asked; waits for `gate` when there is one."""

    def __init__(self, body: bytes = b"answer", gate: asyncio.Event | None = None) -> None:
        self.body = body
        self.gate = gate
        self.count = 0
        self.error: Exception | None = None

    async def __call__(self) -> bytes:
        self.count += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.body


def identity(key: str = "k", body: bytes = b"b", owner: str = "me") -> Identity:
    return Identity.of(owner, key, "/v1/x", body)


def test_many_at_once_make_one():
    async def main() -> None:
        kept, gate = Replays(ManualClock()), asyncio.Event()
        make = Maker(gate=gate)
        waiting = [asyncio.create_task(kept.once(identity(), make)) for _ in range(50)]
        await asyncio.sleep(0)
        gate.set()
        answers = await asyncio.gather(*waiting)
        assert make.count == 1
        assert sorted(answers) == [(b"answer", False)] + [(b"answer", True)] * 49

    asyncio.run(main())


def test_another_body_or_path_is_refused_and_another_owner_is_not():
    async def main() -> None:
        kept, make = Replays(ManualClock()), Maker()
        await kept.once(identity(), make)
        for other in (identity(body=b"c"), Identity.of("me", "k", "/v1/y", b"b")):
            with pytest.raises(BadRequest) as caught:
                await kept.once(other, make)
            assert caught.value.status == 422
        await kept.once(identity(owner="you"), make)
        assert make.count == 2

    asyncio.run(main())


def test_what_failed_may_be_tried_again_also_by_who_waits():
    async def main() -> None:
        kept, gate = Replays(ManualClock()), asyncio.Event()
        failing, good = Maker(gate=gate), Maker()
        failing.error = ValueError("no")
        first = asyncio.create_task(kept.once(identity(), failing))
        await asyncio.sleep(0)
        second = asyncio.create_task(kept.once(identity(), good))
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(ValueError, match="no"):
            await first
        assert await second == (b"answer", False)

    asyncio.run(main())


def test_who_is_cancelled_leaves_room():
    async def main() -> None:
        kept, make = Replays(ManualClock()), Maker(gate=asyncio.Event())
        first = asyncio.create_task(kept.once(identity(), make))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await kept.once(identity(), Maker(b"second")) == (b"second", False)

    asyncio.run(main())


def test_a_stream_is_not_kept():
    async def main() -> None:
        kept = Replays(ManualClock())
        with (
            kept.streaming(identity()),
            pytest.raises(BadRequest) as caught,
            kept.streaming(identity()),
        ):
            pass
        assert caught.value.status == 409
        with pytest.raises(BadRequest) as caught:
            await kept.once(identity(), Maker())
        assert caught.value.status == 409
        with pytest.raises(RuntimeError), kept.streaming(identity("other")):
            raise RuntimeError("the client left")
        with kept.streaming(identity("other")):
            pass

    asyncio.run(main())


def test_what_is_old_or_too_much_is_forgotten(monkeypatch):
    async def main() -> None:
        clock = ManualClock()
        kept, make = Replays(clock), Maker(b"x" * 10)
        await kept.once(identity("a"), make)
        clock.advance(replays.KEEP_SECONDS - 1)
        assert (await kept.once(identity("a"), make))[1]
        clock.advance(1)
        assert not (await kept.once(identity("a"), make))[1]
        monkeypatch.setattr(replays, "MAX_BYTES", 25)
        await kept.once(identity("b"), make)
        await kept.once(identity("c"), make)
        assert (await kept.once(identity("b"), make))[1]
        assert not (await kept.once(identity("a"), make))[1]

    asyncio.run(main())


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 256, "a\x7f"])
def test_a_key_that_is_none(key):
    with pytest.raises(BadRequest, match="1 to 255"):
        identity(key)


def test_over_http():
    model, engine = scripted_model()
    assert isinstance(engine, ScriptedEngine)
    running = run_server([(model, engine)])
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "seed": 1}
    headers = {"Idempotency-Key": "order-1"}
    with client_of(running) as client:
        first = client.post("/v1/chat/completions", json=body, headers=headers)
        again = client.post("/v1/chat/completions", json=body, headers=headers)
        assert first.content == again.content
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert len(engine.submitted) == 1
        other = client.post("/v1/chat/completions", json={**body, "seed": 2}, headers=headers)
        assert other.status_code == 422
        vectors = {"model": "scripted", "input": "hi"}
        for replayed in (None, "true"):
            got = client.post("/v1/embeddings", json=vectors, headers={"Idempotency-Key": "e"})
            assert got.headers.get("idempotent-replayed") == replayed
        streamed = {**body, "stream": True}
        statuses = [
            client.post(
                "/v1/chat/completions", json=streamed, headers={"Idempotency-Key": "s"}
            ).status_code
            for _ in range(2)
        ]
        assert statuses == [200, 409]
        bad = client.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": "a b"})
        assert bad.status_code == 400
    running.stop()
