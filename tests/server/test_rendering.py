"""The renderer: how many tokens come in one event changes nothing that a client sees."""

from __future__ import annotations

import random

import pytest

from tests.server.scripted import EOS, byte_source
from tribody.core.request import Event, TokenLogprob
from tribody.server.rendering import ChoiceRenderer, Piece
from tribody.text.answer_stream import AnswerStream
from tribody.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_source(byte_source())
OUTPUTS = [
    "hm 想\n</think>\n\nyes 好!",
    "</think>at once",
    "thinking that never closes </thin",
    "a</think>b STOP",
]


def events(text: str, sizes: list[int], *, by_token: bool) -> list[Event]:
    """The tokens of `text` in events of these sizes, taken in turn; the last one ends."""
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    if by_token:
        tokens += TOKENIZER.encode(EOS, add_special_tokens=False)
    made: list[Event] = []
    first = 0
    while first < len(tokens):
        end = min(first + sizes[len(made) % len(sizes)], len(tokens))
        part, last = tokens[first:end], end == len(tokens)
        logprobs = [
            TokenLogprob(token, -0.5 * place, []) for place, token in enumerate(part, first)
        ]
        made.append(
            Event(
                request_id="r",
                choice=0,
                token_ids=part,
                logprobs=logprobs,
                finish_reason="stop" if last else None,
                ended_by_token=by_token and last,
            )
        )
        first = end
    return made


def render(made: list[Event], *, splits: bool) -> tuple[ChoiceRenderer, list[Piece]]:
    stream = AnswerStream(TOKENIZER, ("STOP",), "open" if splits else "none")
    renderer = ChoiceRenderer(0, stream, section=None if splits else "content")
    return renderer, [piece for event in made for piece in renderer.push(event)]


def seen(pieces: list[Piece]) -> dict[str, tuple[str, list[TokenLogprob]]]:
    """By section, its text and its tokens' log probabilities."""
    return {
        section: (
            "".join(p.text for p in pieces if p.section == section),
            [logprob for p in pieces if p.section == section for logprob in p.logprobs],
        )
        for section in ("reasoning", "content")
    }


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("splits", [False, True])
def test_tokens_that_come_together_are_shown_and_counted_like_single_ones(
    output: str, by_token: bool, splits: bool
) -> None:
    """Reasoning tokens and log probabilities were given to the section in which an event ended."""
    plain, singles = render(events(output, [1], by_token=by_token), splits=splits)
    rng = random.Random(4)
    groupings = [[100], [2], [3, 1], *([rng.randint(1, 9) for _ in range(7)] for _ in range(40))]
    for sizes in groupings:
        renderer, pieces = render(events(output, sizes, by_token=by_token), splits=splits)
        assert seen(pieces) == seen(singles)
        assert renderer.reasoning_tokens == plain.reasoning_tokens
        assert pieces[-1].finish_reason == "stop"
        assert sum(piece.finish_reason is not None for piece in pieces) == 1


def test_one_event_gives_at_most_one_piece_of_a_section_in_a_row() -> None:
    _, pieces = render(events(OUTPUTS[0], [100], by_token=True), splits=True)
    sections = [piece.section for piece in pieces if piece.finish_reason is None]
    assert len(sections) <= 3
    assert len(pieces[-1].text) == 0
