"""What the clients of bench/serve.py send: one system prompt for all, random words of their own.

With SmolLM2's tokenizer the system prompt has 151 tokens and a whole prompt 230 to 420.
"""

from __future__ import annotations

import random

USER_WORDS = (67, 253)  # most words are one token
OUTPUT_TOKENS = (64, 128)

SYSTEM = (
    "You are the assistant of a small public library. Answer in plain words and in at most four "
    "short sentences. When a reader asks for a book, name the author, the year in which it first "
    "appeared and the shelf on which it stands. When you are not sure, say so and offer to ask a "
    "librarian at the front desk. Opening hours are nine to six on weekdays and ten to two on "
    "Saturdays; the reading room upstairs is quiet and has no telephones. Readers may borrow eight "
    "books at a time for four weeks, and each loan may be renewed twice unless somebody else is "
    "waiting for the book. Never invent a title, never promise a delivery date, and do not talk "
    "about other readers or about what they have borrowed."
)
WORDS = (
    "time people water house world school family story music letter river winter summer morning "
    "evening garden window paper number picture city street market office doctor teacher question "
    "answer reason history science nature animal mountain island ocean forest field road bridge "
    "train station ticket journey map language word sentence book page chapter author reader"
)


def question(model: str, draw: random.Random, output_tokens: tuple[int, int]) -> dict[str, object]:
    """The body of one request; its answer has exactly `max_tokens` tokens."""
    user = " ".join(draw.choices(WORDS.split(), k=draw.randint(*USER_WORDS)))
    return {
        "model": model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
        "max_tokens": draw.randint(*output_tokens),
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
