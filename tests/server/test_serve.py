"""The server's life: addresses, models, readiness, draining, stopping."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from pathlib import Path

import httpx2
import pytest

from tests.server.scripted import Held, RunningServer, client_of, run_server, scripted_model
from tribody.core.config import EngineConfig
from tribody.core.errors import BadConfig
from tribody.server.aliases import Alias
from tribody.server.launch import NamedModel
from tribody.server.listening import ServeConfig, bind, listen
from tribody.server.models_table import ModelsTable
from tribody.server.serve import all_aliases, make_service, ready_text

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "temperature": 0}
CHAT = "/v1/chat/completions"


def test_models_and_aliases(http: httpx2.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    card = listed["data"][0]
    assert card["id"] == "scripted"
    assert card["object"] == "model"
    assert card["aliases"] == ["deepseek-chat"]
    assert card["root"] == "scripted"
    mode = http.get("/v1/models/deepseek-chat").json()
    assert mode == {**card, "id": "deepseek-chat"}
    assert listed["data"] == [card, mode]  # a name with a mode of its own is listed
    assert http.get("/models/scripted").json() == card


def test_probes_and_version(http: httpx2.Client, running: RunningServer) -> None:
    for path in ("/health", "/livez", "/readyz"):
        assert http.get(path).status_code == 200
    assert http.get("/version").json()["version"]
    running.engine.ready = False
    assert http.get("/readyz").status_code == 503
    assert http.get("/health").status_code == 200
    running.engine.ready = True


def test_every_answer_has_an_id_of_ours(http: httpx2.Client) -> None:
    ids = [http.get("/health", headers={"x-request-id": "mine"}).headers["x-request-id"]]
    ids.append(http.post(CHAT, json=BODY).headers["x-request-id"])
    assert "mine" not in ids
    assert len(set(ids)) == 2


def test_two_models_answer_under_their_names() -> None:
    one, two = scripted_model("one"), scripted_model("two")
    two[1].script = lambda request, choice: "I am two."
    running = run_server([one, two], aliases={"deepseek-reasoner": "two"})
    with client_of(running) as http:
        ids = [card["id"] for card in http.get("/v1/models").json()["data"]]
        assert ids == ["one", "two", "deepseek-reasoner"]
        answer = http.post(CHAT, json={**BODY, "model": "deepseek-reasoner"}).json()
        assert answer["model"] == "two"
        assert answer["choices"][0]["message"]["content"] == "I am two."
        assert len(one[1].submitted) == 0
    running.stop()


def test_names_that_clash_are_refused() -> None:
    model, _ = scripted_model("one")
    same, _ = scripted_model("one")
    other, _ = scripted_model("two")
    with pytest.raises(BadConfig, match="two models want the name 'one'"):
        ModelsTable([model, same], {})
    with pytest.raises(BadConfig, match="no such model"):
        ModelsTable([model], {"a": Alias("nope")})
    with pytest.raises(BadConfig, match="two models want the name 'two'"):
        ModelsTable([model, other], {"two": Alias("one")})
    with pytest.raises(BadConfig, match="must be 1 to 96"):
        ModelsTable([model], {"bad name": Alias("one")})


def test_names_as_typed_become_aliases(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    models = [
        NamedModel("smollm2", EngineConfig(model_path="/cache/x.gguf")),
        NamedModel(str(file), EngineConfig(model_path=str(file.resolve()))),
    ]
    given = {"chat": Alias("smollm2", thinking=False), "raw": Alias(str(file))}
    assert all_aliases(models, ["SmolLM2", "m"], given) == {
        "smollm2": Alias("SmolLM2"),
        "chat": Alias("SmolLM2", thinking=False),
        "raw": Alias("m"),
    }


def test_names_and_their_modes() -> None:
    """DeepSeek's two names carry a mode unless the operator says another; others carry none."""
    model, _ = scripted_model("one")
    table = ModelsTable(
        [model],
        {
            "deepseek-reasoner": Alias("one"),
            "deepseek-chat": Alias("one", thinking=True),
            "mine": Alias("one"),
            "quick": Alias("one", thinking=False),
        },
    )
    modes = {name: table.find(name).thinking for name in ("one", *table.aliases_of(model))}
    assert modes == {
        "one": None,
        "deepseek-chat": True,
        "deepseek-reasoner": True,
        "mine": None,
        "quick": False,
    }
    listed = [served.name for served in table.listed()]
    assert listed == ["one", "deepseek-reasoner", "deepseek-chat", "quick"]
    own = ModelsTable([model], {"one": Alias("one", thinking=False)})
    assert own.find("one").thinking is False
    assert [served.name for served in own.listed()] == ["one"]


def test_a_taken_port_names_the_next_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadConfig) as caught:
            bind("127.0.0.1", port, has_keys=False)
    text = str(caught.value)
    assert f"--port {port} cannot be used" in text
    free = int(text.split("--port ")[2].split(" ")[0])
    assert free > port
    bind("127.0.0.1", free, has_keys=False).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
def test_other_addresses_need_keys(host: str) -> None:
    with pytest.raises(BadConfig, match="--api-key-file"):
        bind(host, 0, has_keys=False)


def test_loopback_names() -> None:
    for host in ("127.0.0.1", "localhost", "127.0.0.2"):
        bind(host, 0, has_keys=False).close()
    bind("0.0.0.0", 0, has_keys=True).close()
    with pytest.raises(BadConfig, match="not a usable address"):
        bind("no such host", 0, has_keys=True)


def test_listen_reads_the_keys_first(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="--api-key-file"):
        listen(ServeConfig(host="0.0.0.0", port=0, api_key_file=tmp_path / "none"))


def test_ready_text_has_a_curl_to_paste() -> None:
    model, _ = scripted_model()
    text = ready_text("::1", 8123, make_service([model], {"chat": Alias("scripted")}, None))
    assert "http://[::1]:8123/v1" in text
    assert "scripted, chat" in text
    assert "float32" in text
    assert "curl -N http://[::1]:8123/v1/chat/completions" in text
    assert "Authorization" not in text


def start_held() -> tuple[RunningServer, Held, list[httpx2.Response], threading.Thread]:
    """A server with one answer under way that waits for `release`."""
    model, engine = scripted_model()
    running = run_server([(model, engine)], shutdown_seconds=0.3)
    held = engine.hold = Held(after=2)
    answers: list[httpx2.Response] = []

    def ask() -> None:
        with client_of(running) as http, contextlib.suppress(httpx2.RemoteProtocolError):
            answers.append(http.post(CHAT, json={**BODY, "stream": True}))

    thread = threading.Thread(target=ask)
    thread.start()
    assert held.reached.wait(5)
    return running, held, answers, thread


def test_drain_refuses_new_work_and_finishes_the_old() -> None:
    running, held, answers, thread = start_held()
    running.server._shutdown_seconds = 30.0
    running.server.handle_exit(signal.SIGTERM, None)
    with client_of(running) as http:
        assert http.get("/readyz").status_code == 503
        assert http.get("/health").status_code == 200
        refused = http.post(CHAT, json=BODY)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "shutting_down"
    held.release()
    thread.join(5)
    assert answers[0].text.endswith("data: [DONE]\n\n")
    running.thread.join(5)
    assert not running.thread.is_alive()


def test_drain_that_takes_too_long_ends_with_an_error_event() -> None:
    running, _, answers, thread = start_held()
    running.server.handle_exit(signal.SIGTERM, None)
    thread.join(10)
    assert running.engine.closed
    assert '"error"' in answers[0].text
    assert "[DONE]" not in answers[0].text
    running.thread.join(10)
    assert not running.thread.is_alive()


def test_second_signal_stops_at_once() -> None:
    running, _, _, thread = start_held()
    running.server._shutdown_seconds = 3600.0
    running.server.handle_exit(signal.SIGINT, None)
    running.server.handle_exit(signal.SIGINT, None)
    running.thread.join(10)
    assert not running.thread.is_alive()
    thread.join(10)
    assert running.engine.aborted
