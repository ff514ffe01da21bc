"""What hostile requests cost: bodies by the MiB, texts that tokenizers trip over, guessed keys.

    .venv-bench/bin/python bench/hostile.py [MODEL]

Each body and each text goes to a server of its own process by /tokenize, with a process beside it
that asks /health every 5 ms (see overhead.py): its longest answer bounds the event loop's stalls.
Keys are looked up in this process, 100,000 guesses that share 0 to all but one characters with the
right one; `p` is the chance of as much correlation between shared characters and time by accident.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import overhead
from tribody.core.api_settings import DEFAULT_API
from tribody.server.auth import KeyFile

MIB = 2**20
GUESSES = 100_000
BOMBS = {
    "a": "a", "^": "^", "space": " ", "newline": "\n", "tab": "\t", "CR LF": "\r\n", "0": "0",
    "digits": "0123456789", "!": "!", "quote": "\"'", "letters and spaces": "a ", "backslash": "\\",
    "emoji with joiners": "👨‍👩‍👧‍👦", "combining marks": "e\u0301\u0302\u0303", "CJK": "深度求索",
    "Thai": "ภาษาไทย",
    "accents": "éèêë", "zero width": "\u200b", "control": "\x01", "special token": "<|im_end|>",
}  # fmt: skip


def bombs() -> dict[str, str]:
    """Texts of 1 MiB in UTF-8."""
    rng = random.Random(1)
    made = {name: text * (MIB // len(text.encode())) for name, text in BOMBS.items()}
    made["base64"] = base64.b64encode(rng.randbytes(MIB * 3 // 4)).decode()
    made["random bytes"] = rng.randbytes(MIB // 2).decode("latin-1")
    return made


def bodies() -> dict[str, bytes]:
    """JSON of 8 MiB that takes parsing and says nothing."""
    size = 8 * MIB
    fillers = {
        "long text": b'"' + b"a" * size + b'"',
        "escapes": b'"' + rb"\u00e9" * (size // 6) + b'"',
        "numbers": b"[" + b"1.5," * (size // 4) + b"1]",
        "objects": b"[" + b'{"a":1},' * (size // 8) + b"1]",
        "keys": b"{" + b",".join(b'"%07d":1' % i for i in range(size // 12)) + b"}",
        "nested": b"[" + (b"[" * 100 + b"]" * 100 + b",") * (size // 201) + b"1]",
    }
    return {name: b'{"model":"x","odd":' + filler + b"}" for name, filler in fillers.items()}


def ask(url: str, body: bytes) -> tuple[float, int]:
    request = urllib.request.Request(f"{url}/tokenize", body)
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            return time.perf_counter() - started, answer.status
    except urllib.error.HTTPError as refused:
        refused.read()
        return time.perf_counter() - started, refused.code


def with_probe(url: str, body: bytes) -> dict[str, object]:
    """Seconds of the request, and the longest probe meanwhile."""
    command = [sys.executable, overhead.__file__, "--probe", url, "--seconds", "2"]
    probe = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    seconds, status = ask(url, body)
    longest = max(json.loads(probe.communicate()[0]))
    return {"status": status, "ms": round(seconds * 1e3, 1), "stall_ms": round(longest * 1e3, 1)}


def keys() -> dict[str, object]:
    rng = random.Random(1)
    right = "sk-" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=45))
    known = KeyFile({hashlib.sha256(right.encode()).digest(): DEFAULT_API})
    shared, times = [], []
    for _ in range(GUESSES):
        count = rng.randrange(len(right))
        guess = (right[:count] + "#" * (len(right) - count)).encode()
        started = time.perf_counter_ns()
        known.find(guess)
        times.append(time.perf_counter_ns() - started)
        shared.append(count)
    ranks = {at: rank for rank, at in enumerate(sorted(range(GUESSES), key=times.__getitem__))}
    r = statistics.correlation(shared, [ranks[i] for i in range(GUESSES)])
    return {"guesses": GUESSES, "r": round(r, 5), "p": math.erfc(abs(r) * math.sqrt(GUESSES / 2))}


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "mini-r1"
    server = subprocess.Popen(
        [*overhead.SERVE, model, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = overhead.server_url(server)
        ask(url, b"{}")
        for name, body in bodies().items():
            found = with_probe(url, body)
            found["ms_per_mib"] = round(float(str(found["ms"])) / (len(body) / MIB), 1)
            print("body", name, json.dumps(found), flush=True)
        for name, text in bombs().items():
            asked = {"model": Path(model).stem, "prompt": text}
            print("text", name, json.dumps(with_probe(url, json.dumps(asked).encode())), flush=True)
    finally:
        server.terminate()
        server.wait(30)
    print("keys", json.dumps(keys()))


if __name__ == "__main__":
    main()
