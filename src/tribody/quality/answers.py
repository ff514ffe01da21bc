"""Answers of a model to held-out items: greedy, batched, by the engine that the server runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tribody.core.errors import BadRequest, EngineFailed
from tribody.core.request import Event, FinishReason, Request, SamplingParams
from tribody.quality.held_out import Item, is_right
from tribody.quality.logits import LoadedModel
from tribody.quality.progress import Watcher
from tribody.text.chat_template import ChatTemplate, chat_template_for
from tribody.text.reasoning import ReasoningSplitter, prompt_opens_thinking

WAITING = 128  # requests in the engine's queue; the next is always ready when a sequence ends


@dataclass(frozen=True, slots=True)
class Answer:
    """How one item went.  "refused": its prompt does not fit the model's context."""

    right: bool
    content: str
    num_tokens: int
    finish: FinishReason | Literal["refused"]


def template_of(model: LoadedModel) -> ChatTemplate | None:
    """The model's chat template, or None for a model that can only complete text."""
    return chat_template_for(model.built.tokenizer_source, model.built.info.model_type)


def render(template: ChatTemplate, item: Item) -> str:
    """The prompt of an item: one user message, with thinking where the model can."""
    return template.prompt([{"role": "user", "content": item.prompt}], thinking=True)


def answer_items(
    model: LoadedModel,
    template: ChatTemplate,
    items: Sequence[Item],
    max_tokens: int,
    watcher: Watcher,
) -> list[Answer]:
    """Ask every item once, at temperature 0; an answer ends after `max_tokens` at the latest.

    Raises: EngineFailed when the model's logits are not numbers.
    """
    prompts = [render(template, item) for item in items]
    run = _Run(model, items, prompts)
    requests = deque(run.request(index, max_tokens) for index in range(len(items)))
    return run.answers(requests, watcher)


class _Run:
    """One pass over the items: the engine's queue is kept filled until all have ended."""

    def __init__(self, model: LoadedModel, items: Sequence[Item], prompts: Sequence[str]) -> None:
        self._model = model
        self._items = items
        self._prompts = prompts
        self._tokens: list[list[int]] = [[] for _ in items]
        self._answers: list[Answer | None] = [None] * len(items)

    def request(self, index: int, max_tokens: int) -> Request:
        """The engine ends an answer earlier where the context does."""
        encode = self._model.built.tokenizer.encode
        return Request(
            id=str(index),
            prompt_token_ids=encode(self._prompts[index], add_special_tokens=False),
            sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0),
        )

    def answers(self, waiting: deque[Request], watcher: Watcher) -> list[Answer]:
        """See `answer_items`."""
        engine = self._model.built.engine
        while waiting or engine.has_work():
            while waiting and engine.stats().waiting < WAITING:
                watcher.advance(self._submit(waiting.popleft()))
            for event in engine.step():
                watcher.advance(self._take(event))
        return [answer for answer in self._answers if answer is not None]

    def _submit(self, request: Request) -> int:
        """Queue a request; returns how many items that ended: 1 when it cannot run, else 0."""
        try:
            self._model.built.engine.submit(request)
        except BadRequest:  # longer than the context, or than the KV memory
            self._answers[int(request.id)] = Answer(False, "", 0, "refused")
            return 1
        return 0

    def _take(self, event: Event) -> int:
        """Note what an event brought; returns 1 when it ended its item, else 0."""
        if event.error is not None:
            raise EngineFailed(f"{self._model.precision.name}: {event.error}")
        index = int(event.request_id)
        tokens = self._tokens[index]
        tokens += event.token_ids
        if event.finish_reason is None:
            return 0
        shown = tokens[:-1] if event.ended_by_token else tokens
        text = self._model.built.tokenizer.decode(shown, skip_special_tokens=True)
        content = _content(text, self._prompts[index])
        right = is_right(self._items[index], content)
        self._answers[index] = Answer(right, content, len(tokens), event.finish_reason)
        return 1


def _content(text: str, prompt: str) -> str:
    """The answer without its thinking."""
    splitter = ReasoningSplitter(thinking=prompt_opens_thinking(prompt))
    pieces = splitter.push(text) + splitter.finish()
    return "".join(piece for part, piece in pieces if part == "content")
