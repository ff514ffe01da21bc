"""kill -9 of a server, or of its engine, again and again, under load; and what must still hold.

An answer is acknowledged when its client has all of it: the whole body, or the stream's last line.
After every start the next kill comes at a random moment.  At the end each acknowledged answer has
exactly one usage record, with its counts and its price; nothing is recorded twice; nothing is held;
the balance is what was paid less what was charged; and the ledger verifies.

    PYTHONPATH=src:. python -m tests.server.killing --kills 1000 [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.server.bookkeeping import PRICES, YUAN, Books, charge
from tribody.billing import ledger

COUNTED = ("cached_tokens", "prompt_tokens", "completion_tokens")
NUM_CLIENTS = 6
LOADED_SECONDS = 1.2  # at most, from the first answer to the kill
COMMAND = (
    *("-m", "tribody.cli.main", "serve", "scripted:rate=400"),
    *("--port", "0", "--accounts", "--log-level", "error"),
)
MESSAGES = [{"role": "user", "content": "[[say: " + "many words to say " * 12 + "]]"}]


@dataclass
class Acknowledged:
    """What one client was told."""

    request_id: str
    hit: int
    miss: int
    output: int


@dataclass
class Outcome:
    """Of a whole run."""

    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_records: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        kinds = ", ".join(f"{count} of the {what}" for what, count in sorted(self.kills.items()))
        ends = ", ".join(f"{count} {what}" for what, count in sorted(self.outcomes.items()))
        return (
            f"{sum(self.kills.values())} kills ({kinds}); {len(self.acknowledged)} acknowledged, "
            f"{self.num_records} recorded ({ends}); {len(self.problems)} problems"
        )


class Server:
    """One life of the server."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *COMMAND, "--data-dir", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={name: value for name, value in os.environ.items() if "TRIBODY" not in name},
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if ready := re.search(r"ready at (http://\S+)/v1", line):
                self.url = ready[1]
                return
        raise AssertionError("the server ended before it was ready")

    def kill(self, what: str) -> None:
        if what == "server":
            self.process.kill()
            self.process.wait()
            return
        found = subprocess.run(
            ["pgrep", "-f", "-P", str(self.process.pid), "tribody.engine.process"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        for pid in found:
            os.kill(int(pid), signal.SIGKILL)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


class Clients:
    """Threads that ask in turn, whatever becomes of it."""

    def __init__(self, key: str, outcome: Outcome, seed: int) -> None:
        self.url: str | None = None
        self.answered = threading.Event()
        self._key = key
        self._outcome = outcome
        self._ending = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed}/{i}"),), daemon=True)
            for i in range(NUM_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join(60)

    def _run(self, random_: random.Random) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx2.Client(timeout=30.0, verify=False, headers=headers) as http:
            while not self._ending:
                url = self.url
                if url is None:
                    time.sleep(0.005)
                    continue
                try:
                    told = self._ask(http, url, random_)
                except (httpx2.HTTPError, json.JSONDecodeError):
                    continue
                if told is not None:
                    with self._lock:
                        self._outcome.acknowledged.append(told)
                    self.answered.set()

    def _ask(self, http: httpx2.Client, url: str, random_: random.Random) -> Acknowledged | None:
        """What was acknowledged; None where nothing was."""
        kind = random_.choice(["plain", "plain", "stream", "leave", "embeddings"])
        if kind == "embeddings":
            body = {"model": "scripted", "input": ["one text", f"text {random_.random()}"]}
            answer = http.post(f"{url}/v1/embeddings", json=body)
            if answer.status_code != 200:
                return None
            tokens = answer.json()["usage"]["prompt_tokens"]
            return Acknowledged(answer.headers["x-request-id"], 0, tokens, 0)
        most = random_.randint(1, 60)
        chat: dict[str, object] = {"model": "scripted", "messages": MESSAGES, "max_tokens": most}
        path = f"{url}/v1/chat/completions"
        if kind == "plain":
            answer = http.post(path, json=chat)
            if answer.status_code != 200:
                return None
            return _told(answer.headers["x-request-id"], answer.json()["usage"])
        last = ""
        with http.stream("POST", path, json={**chat, "stream": True}) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    return _told(answer.headers["x-request-id"], json.loads(last)["usage"])
                if line.startswith("data: "):
                    last = line.removeprefix("data: ")
                    if kind == "leave" and random_.random() < 0.1:
                        return None
        return None


def _told(request_id: str, usage: dict[str, int]) -> Acknowledged:
    return Acknowledged(
        request_id,
        usage["prompt_cache_hit_tokens"],
        usage["prompt_cache_miss_tokens"],
        usage["completion_tokens"],
    )


def run(folder: Path, num_kills: int, seed: int, *, progress: bool = False) -> Outcome:
    """A run in an empty folder."""
    books, outcome, random_ = Books(folder), Outcome(), random.Random(seed)
    books.use(PRICES)
    books.add_tenant(yuan=1_000_000)
    clients = Clients(books.add_key(), outcome, seed)
    server = None
    while sum(outcome.kills.values()) < num_kills:
        server = server or Server(folder)
        clients.answered.clear()
        clients.url = server.url
        if not clients.answered.wait(600):
            outcome.problems.append("nothing was answered for ten minutes")
            break
        time.sleep(random_.random() * LOADED_SECONDS)
        what = random_.choice(["server", "server", "engine"])
        if what == "server":
            clients.url = None
        server.kill(what)
        outcome.kills[what] += 1
        server = None if what == "server" else server
        if progress and sum(outcome.kills.values()) % 10 == 0:
            print(f"{outcome.text()}", flush=True)
    clients.url = None
    clients.end()
    (server or Server(folder)).stop()
    check(books, outcome)
    return outcome


def check(books: Books, outcome: Outcome) -> None:
    """Everything that the module's docstring promises; what does not hold becomes a problem."""
    problems, records = outcome.problems, books.usage()
    outcome.num_records = len(records)
    outcome.outcomes = Counter(str(record["outcome"]) for record in records)
    by_id = {record["request_id"]: record for record in records}
    if len(by_id) != len(records):
        problems.append(f"{len(records) - len(by_id)} records are there twice")
    for told in outcome.acknowledged:
        record = by_id.get(told.request_id)
        if record is None:
            problems.append(f"{told.request_id} was acknowledged and is not recorded")
            continue
        hit, prompt = record["cached_tokens"], record["prompt_tokens"]
        found = (hit, int(str(prompt)) - int(str(hit)), record["completion_tokens"])
        if found != (told.hit, told.miss, told.output) or record["outcome"] != "finished":
            problems.append(f"{told} is recorded as {record}")
    charged = 0
    for record in records:
        hit, prompt, output = (
            int(str(record[name]))
            for name in ("cached_tokens", "prompt_tokens", "completion_tokens")
        )
        free = record["outcome"] in ("restart", "error", "drain", "refused")
        due = 0 if free else charge(hit, prompt - hit, output)
        charged += int(str(record["charged_micro"]))
        if record["charged_micro"] != due:
            problems.append(f"{record} should have cost {due}")
    balance = books.balance()
    if balance.held_micro or ledger.open_reservations(books.db):
        problems.append(f"{balance.held_micro} micro-yuan are still held")
    if balance.topped_up_micro != 1_000_000 * YUAN - charged:
        problems.append(f"{balance.topped_up_micro} are left, {charged} were charged")
    report = ledger.verify(books.db)
    problems += [str(problem) for problem in report.problems]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder) / "data", arguments.kills, arguments.seed, progress=True)
    for problem in outcome.problems[:20]:
        print(problem)
    print(outcome.text())
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
