"""Where the endpoints are, and who may use them (contract 1)."""

from __future__ import annotations

from functools import partial

from tribody.conformance.check import ONLY_2026, Check, Section
from tribody.conformance.target import ABSENT, Target
from tribody.conformance.verdict import expect
from tribody.conformance.wire import Answer, raw_status

WRONG_KEY = "sk-0000000000000000000000000000wrong"


def _answers(path: str, t: Target) -> None:
    """A chat path gives a chat completion."""
    t.post(t.body(t.prompts.say("Hello.")), path).ok().at("object").is_("chat.completion")


def _exists(path: str, t: Target) -> None:
    """Something answers a POST of an empty object; what it says is other checks' business."""
    status = t.client.send("POST", path, payload={}).status
    expect(status not in ABSENT, f"an endpoint at POST {path}", status)
    expect(status < 500, f"POST {path} of an empty object to be refused", status)


def _lists(path: str, t: Target) -> None:
    t.client.send("GET", path).ok().at("object").is_("list")


def balance(t: Target) -> None:
    t.client.send("GET", "/user/balance").ok().at("is_available").boolean()


def files(t: Target) -> None:
    status = t.client.send("GET", t.path("files")).status
    expect(status == 200, "200 from GET /v1/files", status)


def batches(t: Target) -> None:
    status = t.client.send("GET", "/v1/batches").status
    expect(status == 200, "200 from GET /v1/batches", status)


def same_by_both_paths(t: Target) -> None:
    body = t.body(t.prompts.say("Same."), temperature=0)
    one = t.post(body, "/chat/completions").ok()
    other = t.post(body, "/v1/chat/completions").ok()
    expect(
        one.at("choices").raw == other.at("choices").raw,
        "the same choices with and without /v1",
        f"{one.at('choices').raw!r} and {other.at('choices').raw!r}",
    )


def unknown_path(t: Target) -> None:
    t.client.send("GET", "/v1/no-such-thing").expect_status(404)


def wrong_method(t: Target) -> None:
    t.client.send("GET", t.chat_path).expect_status(405, 404)
    t.client.send("DELETE", "/v1/models").expect_status(405, 404)


def openapi(t: Target) -> None:
    found = t.client.send("GET", "/openapi.json").ok()
    expect(found.at("openapi").text().startswith("3."), "OpenAPI 3", found.at("openapi").raw)
    paths = found.at("paths").fields()
    expect("/v1/chat/completions" in paths, "/v1/chat/completions among its paths", list(paths))


def tokenize(t: Target) -> None:
    found = t.client.send(
        "POST", "/tokenize", payload={"model": t.model, "prompt": "Hello, 世界."}
    ).ok()
    ids = [item.integer() for item in found.at("tokens").items()]
    expect(ids, "at least one token", ids)
    if found.has("count"):
        found.at("count").is_(len(ids))


# --- keys ------------------------------------------------------------------------------------


def _with(t: Target, headers: dict[str, str], path: str | None = None) -> Answer:
    return t.client.send("POST", path or t.chat_path, payload=t.body("Hello."), headers=headers)


def _denied(headers: dict[str, str], t: Target) -> None:
    _with(t, headers).expect_status(401)


def no_key_anywhere(t: Target) -> None:
    for path in ("/models", "/user/balance"):
        t.client.send("GET", path, headers={}).expect_status(401, 404)
    for path in (t.chat_path, "/v1/completions", "/beta/completions", "/v1/embeddings"):
        t.client.send("POST", path, payload={}, headers={}).expect_status(401, 404)


def body_of_401(t: Target) -> None:
    error = _with(t, {"authorization": f"Bearer {WRONG_KEY}"}).expect_status(401).json()
    error.at("error", "type").is_("authentication_error")
    error.at("error", "code").one_of("invalid_request_error", "invalid_api_key")


def key_is_not_repeated(t: Target) -> None:
    answer = _with(t, {"authorization": f"Bearer {WRONG_KEY}"}).expect_status(401)
    expect(WRONG_KEY.encode() not in answer.body, "the key kept out of the answer", answer.body)


def key_before_body(t: Target) -> None:
    """A stranger learns nothing from the validation of a body."""
    wrong = {"authorization": f"Bearer {WRONG_KEY}"}
    t.client.send("POST", t.chat_path, content=b"{bad", headers=wrong).expect_status(401)


def scheme_in_any_case(t: Target) -> None:
    _with(t, {"authorization": f"bearer {t.client.key}"}).expect_status(200)


def two_keys(t: Target) -> None:
    head = t.client.raw_head("GET", "/v1/models", f"Authorization: Bearer {WRONG_KEY}")
    expect(raw_status(t.client.raw(head)) in (400, 401), "400 or 401", "another status")


def key_in_query(t: Target) -> None:
    path = f"/v1/models?api_key={t.client.key}"
    t.client.send("GET", path, headers={}).expect_status(401)


def path_tricks(t: Target) -> None:
    """No spelling of a path opens what its plain spelling keeps shut."""
    for path in ("//v1/models", "/v1//models", "/health/../v1/models", "/V1/models", "/v1/models/"):
        head = t.client.raw_head("GET", path, "Connection: close", auth=False)
        status = raw_status(t.client.raw(head))
        expect(status in (400, 401, 403, 404, 421), f"{path} to be denied", status)


def x_api_key(t: Target) -> None:
    body = {
        "model": t.model,
        "max_tokens": 16,
        "messages": [{"role": "user", "content": t.prompts.say("Hello.")}],
    }
    good, wrong = {"x-api-key": str(t.client.key)}, {"x-api-key": WRONG_KEY}
    path = t.path("anthropic")
    t.client.send("POST", path, payload=body, headers=good).expect_status(200)
    t.client.send("POST", path, payload=body, headers=wrong).expect_status(401)


SECTION = Section(
    "endpoints",
    "Endpoints and keys",
    (
        Check("endpoints.chat", "POST /chat/completions", partial(_answers, "/chat/completions")),
        Check("endpoints.v1-chat", "POST /v1/chat/completions",
              partial(_answers, "/v1/chat/completions")),
        Check("endpoints.beta-chat", "POST /beta/chat/completions",
              partial(_answers, "/beta/chat/completions")),
        Check("endpoints.completions", "POST /v1/completions",
              partial(_exists, "/v1/completions")),
        Check("endpoints.fim", "POST /beta/completions", partial(_exists, "/beta/completions")),
        Check("endpoints.responses", "POST /responses", partial(_exists, "/responses")),
        Check("endpoints.anthropic", "POST /anthropic/v1/messages",
              partial(_exists, "/anthropic/v1/messages")),
        Check("endpoints.embeddings", "POST /v1/embeddings", partial(_exists, "/v1/embeddings")),
        Check("endpoints.models", "GET /models", partial(_lists, "/models")),
        Check("endpoints.v1-models", "GET /v1/models", partial(_lists, "/v1/models")),
        Check("endpoints.balance", "GET /user/balance", balance),
        Check("endpoints.files", "GET /files or /v1/files", files, profiles=ONLY_2026),
        Check("endpoints.batches", "GET /v1/batches", batches, profiles=ONLY_2026),
        Check("endpoints.both-paths", "the same answer with and without /v1", same_by_both_paths),
        Check("endpoints.unknown", "an unknown path is 404", unknown_path),
        Check("endpoints.method", "a wrong method is 405 or 404", wrong_method),
        Check("endpoints.openapi", "/openapi.json describes the API", openapi, ("openapi",)),
        Check("endpoints.tokenize", "/tokenize gives token ids", tokenize, ("tokenize",)),
        Check("endpoints.no-key", "without a key: 401", partial(_denied, {}), ("key",)),
        Check("endpoints.no-key-anywhere", "without a key: 401 on every path", no_key_anywhere,
              ("key",)),
        Check("endpoints.wrong-key", "a wrong key: 401",
              partial(_denied, {"authorization": f"Bearer {WRONG_KEY}"}), ("key",)),
        Check("endpoints.basic", "the Basic scheme: 401",
              partial(_denied, {"authorization": "Basic dXNlcjpwYXNz"}), ("key",)),
        Check("endpoints.empty-key", "an empty key: 401",
              partial(_denied, {"authorization": "Bearer"}), ("key",)),
        Check("endpoints.401-body", "a 401 is an authentication_error", body_of_401, ("key",)),
        Check("endpoints.401-secret", "a 401 does not repeat the key", key_is_not_repeated,
              ("key",)),
        Check("endpoints.key-first", "the key is checked before the body", key_before_body,
              ("key",)),
        Check("endpoints.bearer-case", "the scheme may be written in any case", scheme_in_any_case,
              ("key",)),
        Check("endpoints.two-keys", "two Authorization headers are refused", two_keys, ("key",)),
        Check("endpoints.key-in-query", "a key in the query opens nothing", key_in_query,
              ("key",)),
        Check("endpoints.path-tricks", "no spelling of a path goes around the key", path_tricks,
              ("key",)),
        Check("endpoints.x-api-key", "Anthropic's x-api-key is accepted and checked", x_api_key,
              ("key", "anthropic")),
    ),
)  # fmt: skip
