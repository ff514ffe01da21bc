"""`tribody.LLM`: a model in this process, for notebooks, evaluation and scripts.

    llm = LLM("mini-r1")
    llm.chat([{"role": "user", "content": "17 + 25"}], temperature=0).text
    llm.generate("The capital of France is", max_tokens=8, temperature=0).text
    llm.generate("A point: ", json_schema={"type": "array", "items": {"type": "number"}}).text
    llm.score("2 + 2 =", " 4").logprob
    llm.logits([1, 2, 3])                      # float32 (3, vocab_size)

It runs the same engine as the server, without the process boundary: a crash in native code takes
the interpreter down, and one thread may use it at a time.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict, Unpack, get_args, overload

import numpy as np

from tribody.core.config import (
    EngineConfig,
    KVFormat,
    Speculation,
    WeightChoice,
    default_tuning_dir,
)
from tribody.core.engine_info import EngineInfo
from tribody.core.errors import BadConfig, BadRequest, EngineFailed
from tribody.core.request import (
    Event,
    FinishReason,
    Request,
    SamplingParams,
    Thinking,
    TokenLogprob,
    Usage,
)
from tribody.engine.build import Progress, build
from tribody.engine.sampling_options import SamplingOptions, check_sampling
from tribody.loading import hub
from tribody.loading.download import default_cache_dir
from tribody.ops.table import F32
from tribody.text.answer_stream import AnswerStream
from tribody.text.chat_template import ChatTemplate, chat_template_for
from tribody.text.grammar import THINK, grammar_of, json_schema_answer
from tribody.text.grammar_process import GrammarCheck
from tribody.text.reasoning import prompt_opens_thinking

Prompt = str | Sequence[int]
Schema = Mapping[str, object]
Prompts = list[str] | list[list[int]] | list[Prompt]
DType = Literal["auto", WeightChoice]


class EngineOptions(TypedDict, total=False):
    """How the model is run; see `core.config.EngineConfig`, which holds the defaults."""

    kv_budget_bytes: int
    kv_share: float
    num_threads: int
    max_context_tokens: int
    max_step_tokens: int
    step_stretch: float
    max_running: int
    ops: Literal["native", "reference"]
    speculation: Speculation
    max_drafts: int
    tuning_dir: str
    packed_dir: str


@dataclass(slots=True)
class Completion:
    """One choice.  `text` ends before a stop string or an end token; `token_ids` holds all."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@dataclass(slots=True)
class Generation:
    """The answer to one prompt; `text` is the first choice's."""

    prompt_token_ids: list[int]
    choices: list[Completion]
    usage: Usage | None = None

    @property
    def text(self) -> str:
        return self.choices[0].text


@dataclass(frozen=True, slots=True)
class Score:
    """Natural-log probability of a continuation; `is_greedy`: each token was the likeliest."""

    logprob: float
    token_ids: list[int]
    token_logprobs: list[float]
    is_greedy: bool


class LLM:
    """One loaded model."""

    def __init__(
        self,
        model: str | Path,
        dtype: DType = "auto",
        *,
        cache_dir: str | Path | None = None,
        progress: Progress | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        """`model`: a folder, a .gguf file or a name that `tribody pull` takes.

        dtype "auto" is int8 weights with a float16 cache; "float32" computes and caches in float32.
        Names are fetched to `cache_dir`, the folder that `tribody pull` uses unless given.  What
        `tribody tune` found is used, unless tuning_dir is "".
        Raises: BadConfig, BadModel, DownloadFailed.
        """
        if dtype not in get_args(DType):
            raise BadConfig(f"dtype {dtype!r} is not one of {', '.join(get_args(DType))}")
        # A library has no command line above it to read the environment, so this reads the one
        # variable that says where `tribody pull` keeps its models.
        folder = Path(cache_dir) if cache_dir else default_cache_dir(os.environ)
        path = hub.resolve(str(model), cache_dir=folder)
        weight_format: WeightChoice = "w8g32" if dtype == "auto" else dtype
        self._kv_format: KVFormat = "float32" if dtype == "float32" else "float16"
        options.setdefault("tuning_dir", str(default_tuning_dir(folder)))
        config = EngineConfig(
            model_path=str(path),
            weight_format=weight_format,
            kv_format=self._kv_format,
            **options,
        )
        self._built = build(config, progress)
        self._engine = self._built.engine
        self._max_waiting = config.max_waiting
        self.tokenizer = self._built.tokenizer
        self._template: ChatTemplate | None = None  # made by the first chat
        self._grammars = GrammarCheck()
        self._numbers = itertools.count()

    @property
    def info(self) -> EngineInfo:
        return self._built.info

    @overload
    def generate(
        self,
        prompts: str,
        *,
        n: int = 1,
        json_schema: Schema | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        n: int = 1,
        json_schema: Schema | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Generation]: ...
    def generate(
        self,
        prompts: str | Prompts,
        *,
        n: int = 1,
        json_schema: Schema | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation | list[Generation]:
        """Continue one text, or many (texts or lists of token ids) in one batch, in their order.

        With `json_schema` the answer is JSON of that schema, if max_tokens suffice; {"type":
        "object"} is any object.
        Raises: BadRequest for an option out of range, a prompt longer than the context or a schema
        that cannot be followed.
        """
        self._follow(sampling, json_schema, "none")
        if isinstance(prompts, str):
            return self._run([self._tokens(prompts)], n, sampling)[0]
        return self._run([self._tokens(prompt) for prompt in prompts], n, sampling)

    def chat(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        thinking: bool | None = None,
        n: int = 1,
        json_schema: Schema | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generation:
        """Answer a conversation, rendered by the model's own chat template.

        `thinking` says whether the model thinks first, None leaves it to the template.  The text
        holds the thinking, `</think>` and the answer, as the model wrote them.  `json_schema` is as
        for `generate`; it holds the answer only.
        Raises: BadRequest if the model has no template, no switch for thinking, or refuses these
        messages.
        """
        source, model_type = self._built.tokenizer_source, self.info.model_type
        self._template = self._template or chat_template_for(source, model_type)
        if self._template is None:
            raise BadRequest("this model has no chat template; use generate", param="messages")
        text = self._template.prompt(messages, thinking=thinking)
        if thinking is not None and text == self._template.prompt(messages, thinking=not thinking):
            raise BadRequest(
                "this model's chat template has no switch for thinking; leave it out",
                param="thinking",
            )
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        begins: Thinking = "none"
        if prompt_opens_thinking(text):
            begins = "open"
        elif thinking is not False and self.tokenizer.token_id(THINK) is not None:
            begins = "may"
        self._follow(sampling, json_schema, begins)
        return self._run([ids], n, sampling)[0]

    def _follow(
        self, options: SamplingOptions, json_schema: Schema | None, thinking: Thinking
    ) -> None:
        """Put the grammar of a schema into the options.  Raises: BadRequest."""
        if json_schema is not None:
            if "grammar" in options:
                raise BadRequest("give json_schema or grammar, not both", param="json_schema")
            answer = json_schema_answer(json_schema, "json_schema")
            options["grammar"] = grammar_of(answer, thinking, self.tokenizer)
        grammar = options.get("grammar")
        if grammar is not None:
            param = "grammar" if json_schema is None else "json_schema"
            self._grammars.check(grammar, self.info.vocab_size, param)

    def score(self, prompt: Prompt, continuation: Prompt) -> Score:
        """How likely the model finds `continuation` after `prompt`.

        Texts are tokenized one by one (special tokens before the prompt only), so a token never
        spans the seam; begin the continuation with its space.
        """
        first = self._tokens(prompt)
        second = (
            self.tokenizer.encode(continuation, add_special_tokens=False)
            if isinstance(continuation, str)
            else self._tokens(continuation)
        )
        logprobs: list[float] = []
        is_greedy = True
        tokens = first + second
        for position, logits in self._logit_chunks(tokens[:-1], len(first) - 1):
            wanted = np.array(tokens[position + 1 : position + 1 + len(logits)])
            best, _, log_sums = self._built.ops.top_logprobs(logits, 1)
            chosen = logits[np.arange(len(logits)), wanted] - log_sums
            logprobs += chosen.tolist()
            is_greedy = is_greedy and bool((best[:, 0] == wanted).all())
        return Score(sum(logprobs), second, logprobs, is_greedy)

    def logits(self, token_ids: Sequence[int]) -> F32:
        """float32 (T, vocab_size): row t is the model's prediction after token_ids[: t + 1].

        Takes 4 * T * vocab_size bytes.  Use `score` for long texts.
        """
        tokens = self._tokens(token_ids)
        result = np.empty((len(tokens), self.info.vocab_size), np.float32)
        for position, logits in self._logit_chunks(tokens, 0):
            result[position : position + len(logits)] = logits
        return result

    def _logit_chunks(self, tokens: list[int], first: int) -> Iterator[tuple[int, F32]]:
        if len(tokens) > self.info.max_context_tokens:
            raise BadRequest(
                f"{len(tokens)} tokens; this model's context is {self.info.max_context_tokens}"
            )
        return self._built.executor.logit_chunks(tokens, first, self._kv_format)

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            tokens = self.tokenizer.encode(prompt, add_special_tokens=True)
            if not tokens and self.tokenizer.bos_token_id is not None:
                tokens = [self.tokenizer.bos_token_id]
        else:
            tokens = [int(token) for token in prompt]
        if not tokens:
            raise BadRequest("the prompt has no tokens; give at least one", param="prompt")
        for token in tokens:
            if not 0 <= token < self.info.vocab_size:
                raise BadRequest(
                    f"token id {token} is outside [0, {self.info.vocab_size})", param="prompt"
                )
        return tokens

    def _run(self, prompts: list[list[int]], n: int, options: SamplingOptions) -> list[Generation]:
        requests = deque(self._request(tokens, n, options) for tokens in prompts)
        results = {
            request.id: Generation(request.prompt_token_ids, [Completion() for _ in range(n)])
            for request in requests
        }
        streams = {
            (request.id, choice): AnswerStream(self.tokenizer, request.sampling.stop)
            for request in requests
            for choice in range(n)
        }
        order = list(results)
        try:
            while requests or self._engine.has_work():
                while requests and self._engine.stats().waiting < self._max_waiting:
                    self._engine.submit(requests.popleft())
                for event in self._engine.step():
                    stream = streams[event.request_id, event.choice]
                    self._take(results[event.request_id], event, stream)
        except BaseException:
            self._abandon(order)
            raise
        return [results[request_id] for request_id in order]

    def _abandon(self, request_ids: list[str]) -> None:
        """Leave the engine empty after an interrupt or an error."""
        for request_id in request_ids:
            self._engine.abort(request_id)
        self._engine.step()

    @staticmethod
    def _take(generation: Generation, event: Event, stream: AnswerStream) -> None:
        choice = generation.choices[event.choice]
        shown = event.token_ids[:-1] if event.ended_by_token else event.token_ids
        pieces = stream.push(shown)
        if event.finish_reason is not None:
            pieces += stream.finish()
        choice.text += "".join(text for _, text in pieces)
        choice.token_ids += event.token_ids
        choice.logprobs += event.logprobs or []
        choice.finish_reason = event.finish_reason or choice.finish_reason
        generation.usage = event.usage or generation.usage
        if event.error is not None:
            raise EngineFailed(event.error)

    def _request(self, tokens: list[int], n: int, options: SamplingOptions) -> Request:
        left = self.info.max_context_tokens - len(tokens)
        given: SamplingOptions = {"max_tokens": max(1, left), "seed": secrets.randbits(63)}
        sampling = SamplingParams(**(given | options))
        check_sampling(sampling, self.info.vocab_size)
        return Request(
            id=f"llm-{next(self._numbers)}", prompt_token_ids=tokens, sampling=sampling, n=n
        )
