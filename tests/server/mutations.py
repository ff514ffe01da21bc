"""Valid HTTP requests, and what may become of them on the way: mutations at byte level."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from tribody.server.api_route import ApiRoute
from tribody.server.routes import ROUTES

ASK = [{"role": "user", "content": "[[count: 3]] ü"}]
BODY: dict[str, object] = {
    "model": "scripted",
    "messages": ASK,
    "prompt": "x",
    "input": "x",
    "max_tokens": 8,
    "max_output_tokens": 8,
}
# Of every route: fields that it does not know are let through.

Mutation = Callable[[Random, bytes], bytes]


def recorded() -> list[bytes]:
    """A valid request to each route that takes a body, as clients send it: with its length, in
    chunks, streamed."""
    requests = []
    for route in ROUTES:
        if route.method != "POST":
            continue
        if route.form is not None:
            requests += [in_parts(path) for path in route.paths]
            continue
        for stream in (False, True) if route.events else (False,):
            body = json.dumps({**_body(route), "stream": stream}).encode()
            for path in route.paths:
                requests.append(with_length(path, body))
                requests.append(in_chunks(path, body, 64))
        requests.append(in_chunks(route.paths[0], body, 1))
    return requests


def _body(route: ApiRoute) -> dict[str, object]:
    """BODY; /tokenize takes one kind of prompt."""
    return {k: v for k, v in BODY.items() if (k, route.paths[0]) != ("prompt", "/tokenize")}


def _head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n"


def with_length(path: str, body: bytes) -> bytes:
    return _head(path, f"Content-Length: {len(body)}") + body


def in_chunks(path: str, body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return _head(path, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"


def in_parts(path: str) -> bytes:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n',
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\r\n',
    ]
    body = b"".join(parts) + b"--x--\r\n"
    head = _head(path, f"Content-Length: {len(body)}")
    return head.replace(b"application/json", b"multipart/form-data; boundary=x") + body


# --- mutations -------------------------------------------------------------------------------


def truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(rng: Random, data: bytes) -> bytes:
    mutable = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        mutable[rng.randrange(len(mutable))] ^= 1 << rng.randrange(8)
    return bytes(mutable)


def insert(rng: Random, data: bytes) -> bytes:
    odd = [b"\r", b"\n", b"\0", b"\r\n", b"\r\n\r\n", b"\x7f", b"\xff", b"\t", b" ", b"\r\n ", b":"]
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice(odd) + data[at:]
    return data


def remove(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 1, 2, 16, 64]) :]


def repeat(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    piece = data[at : at + rng.choice([1, 8, 64, 512])]
    return data[:at] + piece * rng.choice([2, 2, 3, 40]) + data[at + len(piece) :]


def overwrite(rng: Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice([1, 2, 8, 32])
    return data[:at] + rng.randbytes(size) + data[at + size :]


def header(rng: Random, data: bytes) -> bytes:
    """One more header, which contradicts the others or should not be."""
    headers = [
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Content-Length: +5",
        b"Content-Length: 0x10",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length: 5, 6",
        b"Content-Length:",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Content-Encoding: gzip",
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Connection: close",
        b"Connection: Upgrade\r\nUpgrade: websocket",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        b"Host: elsewhere",
        b" folded",
        b": no name",
        b"no colon",
        b"X: " + b"a" * rng.choice([4_000, 17_000, 70_000]),
        b"\r\n".join(b"X%d: y" % i for i in range(rng.choice([100, 3_000]))),
    ]
    line_end = data.find(b"\r\n") + 2
    return data[:line_end] + rng.choice(headers) + b"\r\n" + data[line_end:]


def request_line(rng: Random, data: bytes) -> bytes:
    line, _, rest = data.partition(b"\r\n")
    method, path, version = line.split(b" ")
    lines = [
        b"%s %s" % (method, path),
        b"%s  %s %s" % (method, path, version),
        b"%s %s HTTP/1.0" % (method, path),
        b"%s %s HTTP/0.9" % (method, path),
        b"%s %s HTTP/2.0" % (method, path),
        b"%s http://elsewhere%s %s" % (method, path, version),
        b"%s %s%%00 %s" % (method, path, version),
        b"%s %s/../..%s %s" % (method, path, path, version),
        b"%s *  %s" % (method, version),
        b"CONNECT localhost:80 %s" % version,
        b"OPTIONS * %s" % version,
        b"TRACE %s %s" % (path, version),
        b"%s %s?%s %s" % (method, path, b"a" * 20_000, version),
        b"%s %s %s" % (b"M" * 5_000, path, version),
    ]
    return rng.choice(lines) + b"\r\n" + rest


def chunk_size(rng: Random, data: bytes) -> bytes:
    """Another first chunk size, where the body comes in chunks."""
    head, _, body = data.partition(b"\r\n\r\n")
    _, _, rest = body.partition(b"\r\n")
    sizes = [b"-1", b"0", b"zz", b"", b"ffffffffffffffff", b"1" * 40, b"40;x=" + b"y" * 9_000]
    return head + b"\r\n\r\n" + rng.choice([*sizes, b"40 ", b"+40", b"0x40"]) + b"\r\n" + rest


def pipeline(rng: Random, data: bytes) -> bytes:
    return data * rng.choice([2, 3]) + flip(rng, data)


MUTATIONS: tuple[Mutation, ...] = (
    truncate, flip, insert, remove, repeat, overwrite, header, request_line, chunk_size, pipeline,
)  # fmt: skip


def mutated(rng: Random, requests: list[bytes]) -> bytes:
    """One of `requests`, changed once or a few times."""
    data = rng.choice(requests)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutation = rng.choice(MUTATIONS)
        if mutation is request_line and data.partition(b"\r\n")[0].count(b" ") != 2:
            continue
        if data:
            data = mutation(rng, data)
    return data
