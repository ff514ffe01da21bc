"""The server under test: its paths, its model, what it can do, and short ways to ask it.

What a server lacks is found once and remembered: the check of that endpoint fails, the checks that
need it are skipped, so that one gap is one failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import httpx2

from tribody.conformance.chat_stream import ChatStream
from tribody.conformance.json_value import Value
from tribody.conformance.prompts import Prompts
from tribody.conformance.verdict import Failed, Skipped, expect, shown
from tribody.conformance.wire import Answer, Client, EventStream
from tribody.core.api_settings import ProfileName
from tribody.core.errors import BadConfig

Need = Literal[
    "scripted",  # a model that follows the directives
    "key",  # the server asks for a key, and we have one
    "thinking",
    "reasoner",  # a name that thinks (profile 2025)
    "tools",
    "json",
    "beta",
    "fim",
    "completions",
    "anthropic",
    "responses",
    "embeddings",
    "files",
    "batches",
    "tokenize",
    "openapi",
]

PATHS: dict[str, tuple[str, ...]] = {
    "chat": ("/chat/completions", "/v1/chat/completions"),
    "beta": ("/beta/chat/completions",),
    "fim": ("/beta/completions",),
    "completions": ("/v1/completions",),
    "anthropic": ("/anthropic/v1/messages", "/v1/messages"),
    "responses": ("/responses", "/v1/responses"),
    "embeddings": ("/v1/embeddings",),
    "files": ("/v1/files", "/files"),
    "batches": ("/v1/batches",),
    "tokenize": ("/tokenize",),
}  # by surface: where it may be, DeepSeek's place first
ABSENT = (404, 405, 501)
MAX_TOKENS = 96  # of an ordinary answer: the longest that checks have the scripted model say
MAX_REAL_TOKENS = 32  # of one of a real model, which rarely knows when to stop and may be slow

WEATHER: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

T = TypeVar("T")
Messages = Sequence[Mapping[str, object]]


def function(name: str = "get_weather", **more: object) -> dict[str, object]:
    """A tool; `more` are further fields of its function."""
    fields = {"name": name, "description": "The weather of a city.", "parameters": WEATHER}
    return {"type": "function", "function": fields | more}


class Target:
    """One server, one model, one profile.  Answers that several checks read are kept."""

    def __init__(self, client: Client, profile: ProfileName, model: str | None = None) -> None:
        self.client = client
        self.profile = profile
        self.kept: dict[str, object] = {}
        self.listed = self._listed()
        self.model, self.reasoner = self._names(model)
        self.chat_path = self.path("chat")
        self.prompts = Prompts(scripted=False)
        self.prompts = Prompts(self._follows_directives())

    # --- what it is ---------------------------------------------------------------------------

    @property
    def scripted(self) -> bool:
        return self.prompts.scripted

    def _listed(self) -> list[str]:
        try:
            answer = self.client.send("GET", "/models")
            if answer.status in ABSENT:
                answer = self.client.send("GET", "/v1/models")
        except httpx2.HTTPError as error:
            raise BadConfig(f"{self.client.base} cannot be reached: {error}") from error
        if answer.status in (401, 403):
            raise BadConfig(
                f"{self.client.base} refuses this key ({answer.status}); give one that it knows "
                "with --key-file or OPENAI_API_KEY"
            )
        try:
            return [card.at("id").text() for card in answer.json().at("data").items()]
        except Failed:
            return []

    def _names(self, model: str | None) -> tuple[str, str | None]:
        """The name to ask, and the one that thinks by its name."""
        if model is None:
            preferred = ["deepseek-chat"] if self.profile == "2025" else []
            found = [name for name in [*preferred, *self.listed] if name in self.listed]
            if not found:
                raise BadConfig(f"{self.client.base} lists no models; name one with --model")
            model = found[0]
        reasoner = "deepseek-reasoner" if "deepseek-reasoner" in self.listed else None
        return model, reasoner

    def _follows_directives(self) -> bool:
        """A scripted model is known by what it does, whatever its name is."""
        try:
            answer = self.chat(Prompts(scripted=True).say("conformance")).ok()
            said = answer.maybe("choices", 0, "message", "content").raw
        except (Failed, httpx2.HTTPError):
            return False
        return said == "conformance"

    def path(self, surface: str) -> str:
        """Where `surface` answers, else where it ought to."""

        def find() -> str:
            for path in PATHS[surface]:
                method = "GET" if surface in ("files", "batches") else "POST"
                payload: object = None if method == "GET" else {}
                if self.client.send(method, path, payload=payload).status not in ABSENT:
                    return path
            return ""

        return self.keep(f"path {surface}", find) or PATHS[surface][0]

    def missing(self, need: Need) -> str | None:
        """Why a check that needs this cannot run here; None where it can."""
        if need == "scripted":
            return None if self.scripted else "needs the scripted model (tribody serve scripted)"
        if need == "key":
            return self.keep("key", self._without_key)
        if need == "reasoner":
            return None if self.reasoner else "no model named deepseek-reasoner is listed"
        if need == "openapi":
            found = self.keep("openapi", lambda: self.client.send("GET", "/openapi.json").status)
            return None if found == 200 else "there is no /openapi.json"
        if need in PATHS:
            self.path(need)
            return None if self.kept[f"path {need}"] else f"there is no {PATHS[need][0]}"
        return self.keep(f"need {need}", lambda: self._cannot(need))

    def _without_key(self) -> str | None:
        if "authorization" not in self.client.headers:
            return "no key was given"
        asked = self.client.send("GET", "/models", headers={}).status in (401, 403)
        return None if asked else "the server asks for no key"

    def _cannot(self, need: Need) -> str | None:
        """Ask for it once: `thinking`, `tools` or `json`."""
        try:
            if need == "thinking":
                if self.profile == "2025" and self.reasoner is None:
                    return "no model named deepseek-reasoner is listed"
                message = self.thought().at("choices", 0, "message")
                found = message.maybe("reasoning_content").raw
                return None if found else "the model did not think (no reasoning_content came)"
            if need == "tools":
                calls = self.called().maybe("choices", 0, "message", "tool_calls").raw
                return None if calls else "the model did not call the tool (no tool_calls came)"
            answer = self.chat(
                "Answer with a JSON object.", response_format={"type": "json_object"}
            )
            return None if answer.status == 200 else "response_format json_object is refused"
        except (Failed, httpx2.HTTPError) as error:
            return f"asked for {need}: {error}"

    # --- asking -------------------------------------------------------------------------------

    def keep(self, name: str, ask: Callable[[], T]) -> T:
        """What `ask` gave the first time, for every check that reads it."""
        if name not in self.kept:
            self.kept[name] = ask()
        found: T = self.kept[name]  # type: ignore[assignment]
        return found

    def body(self, content: str | Messages, **fields: object) -> dict[str, object]:
        """A chat request that does not think, unless `fields` say otherwise."""
        one = [{"role": "user", "content": content}] if isinstance(content, str) else content
        most = MAX_TOKENS if self.scripted else MAX_REAL_TOKENS
        body: dict[str, object] = {"model": self.model, "messages": one, "max_tokens": most}
        if self.profile == "2026":
            body["thinking"] = {"type": "disabled"}
        return {name: v for name, v in (body | fields).items() if v is not ...}

    def post(self, payload: object, path: str | None = None) -> Answer:
        return self.client.send("POST", path or self.chat_path, payload=payload)

    def chat(self, content: str | Messages, **fields: object) -> Answer:
        return self.post(self.body(content, **fields))

    def beta(self, content: str | Messages, **fields: object) -> Answer:
        return self.post(self.body(content, **fields), self.path("beta"))

    def stream(self, content: str | Messages, **fields: object) -> ChatStream:
        """Raises: Failed unless it is a 200 of server-sent events."""
        answer = self.chat(content, stream=True, **fields).expect_status(200)
        return ChatStream(EventStream.read(answer.body), answer)

    def thinking(self, **fields: object) -> dict[str, object]:
        """Fields that make the model think, in this profile's way; a thought needs room."""
        room = {"max_tokens": 200 if self.scripted else 1024}
        if self.profile == "2025":
            return {"model": self.reasoner or self.model, **room, **fields}
        return {"thinking": {"type": "enabled"}, **room, **fields}

    # --- answers that several checks read -----------------------------------------------------

    def plain(self) -> Value:
        return self.keep("plain", lambda: self.plain_answer().ok())

    def plain_answer(self) -> Answer:
        ask = self.prompts.say("The sky is blue.")
        return self.keep("plain answer", lambda: self.chat(ask, temperature=0))

    def streamed(self) -> ChatStream:
        ask = self.prompts.say("The sky is blue.")
        options = {"include_usage": True}
        return self.keep(
            "streamed", lambda: self.stream(ask, temperature=0, stream_options=options)
        )

    def thought(self) -> Value:
        ask = self.prompts.think("Two and three make five.", "It is five.")
        return self.keep("thought", lambda: self.chat(ask, temperature=0, **self.thinking()).ok())

    def streamed_thought(self) -> ChatStream:
        ask = self.prompts.think("Two and three make five.", "It is five.")
        return self.keep(
            "streamed thought", lambda: self.stream(ask, temperature=0, **self.thinking())
        )

    def called(self) -> Value:
        ask = self.prompts.call("get_weather", {"city": "Paris"})
        return self.keep("called", lambda: self.chat(ask, temperature=0, tools=[function()]).ok())

    def streamed_call(self) -> ChatStream:
        ask = self.prompts.call("get_weather", {"city": "Paris"})
        return self.keep(
            "streamed call", lambda: self.stream(ask, temperature=0, tools=[function()])
        )

    def obeyed(self, condition: object, expected: str, got: object) -> None:
        """Like `expect`, but a real model that did otherwise is no fault of its server."""
        if self.scripted:
            expect(condition, expected, got)
        elif not condition:
            raise Skipped(f"the model did not do as it was told: {expected}; got {shown(got)}")

    def needs_200(self, answer: Answer, what: str) -> Answer:
        """Skip where a stranger refuses what the contract leaves open or its model cannot do."""
        if not self.scripted and answer.status in (400, 404, 405, 422, 501):
            raise Skipped(f"{what} is not offered here ({answer.status}: {shown(answer.message)})")
        return answer.expect_status(200)
