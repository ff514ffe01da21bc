"""POST /v1/embeddings, as OpenAI has it; vectors are normalised (issued as documented)."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.json_value import Value
from tribody.conformance.target import Target
from tribody.conformance.verdict import Failed, expect, expect_equal
from tribody.conformance.wire import Answer

TOLERANCE = 1e-4  # float32 on the way through decimal text or base64


def _embed(t: Target, given: object, **fields: object) -> Answer:
    body = {"model": t.model, "input": given, **fields}
    return t.client.send("POST", t.path("embeddings"), payload=body)


def _one(t: Target) -> Value:
    return t.keep("embedding", lambda: _embed(t, "A cat sat on the mat.").ok())


def _vector(answer: Value, index: int = 0) -> list[float]:
    return [number.number() for number in answer.at("data", index, "embedding").items()]


def shape(t: Target) -> None:
    answer = _one(t)
    answer.at("object").is_("list")
    answer.at("data", 0, "object").is_("embedding")
    answer.at("data", 0, "index").is_(0)
    answer.at("model").text()


def usage(t: Target) -> None:
    found = _one(t).at("usage")
    count = found.at("prompt_tokens").integer()
    expect(count > 0, "prompt_tokens above 0", count)
    found.at("total_tokens").is_(count)


def normalised(t: Target) -> None:
    length = math.hypot(*_vector(_one(t)))
    expect(abs(length - 1) < 1e-3, "a vector of length 1", length)


def several(t: Target) -> None:
    texts = ["A cat sat on the mat.", "Stocks fell today."]
    answer = _embed(t, texts).ok()
    expect_equal([d.at("index").raw for d in answer.at("data").items()], [0, 1], "the indexes")
    same = math.dist(_vector(answer), _vector(_one(t)))
    expect(same < 1e-2, "the same vector in a batch as alone", same)
    other = math.dist(_vector(answer), _vector(answer, 1))
    expect(other > 1e-3, "another vector for another text", other)


def repeatable(t: Target) -> None:
    again = _vector(_embed(t, "A cat sat on the mat.").ok())
    expect(math.dist(again, _vector(_one(t))) < TOLERANCE, "the same vector twice", "another")


def base64_form(t: Target) -> None:
    answer = t.needs_200(_embed(t, "A cat sat on the mat.", encoding_format="base64"), "base64")
    text = answer.json().at("data", 0, "embedding").text()
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Failed("expected base64 as embedding; got something else") from None
    expected = _vector(_one(t))
    expect_equal(len(raw), 4 * len(expected), "the bytes of float32 numbers")
    found = list(struct.unpack(f"<{len(expected)}f", raw))
    expect(math.dist(found, expected) < TOLERANCE, "the same vector", "another")


def token_ids(t: Target) -> None:
    _vector(t.needs_200(_embed(t, [5, 6, 7]), "input of token ids").json())


def _refused(fields: dict[str, object], t: Target) -> None:
    body: dict[str, object] = {"model": t.model, "input": "x"}
    answer = t.client.send("POST", t.path("embeddings"), payload=body | fields)
    expect(answer.status in (400, 404, 422), "400, 404 or 422", answer.status)
    answer.json().at("error", "message").text()


SECTION = Section(
    "embeddings",
    "Embeddings",
    tuple(
        Check(f"embeddings.{name}", title, run, ("embeddings",))
        for name, title, run in (
            ("shape", "a list of embeddings", shape),
            ("usage", "usage counts the input", usage),
            ("normalised", "vectors have length 1", normalised),
            ("list", "a list gives a vector each, in order", several),
            ("repeatable", "the same text, the same vector", repeatable),
            ("base64", "encoding_format base64: the same numbers", base64_form),
            ("token-ids", "input may be token ids", token_ids),
            ("empty-list", "an empty list is refused", partial(_refused, {"input": []})),
            ("type", "input of another type is refused", partial(_refused, {"input": {"a": 1}})),
            ("encoding", "an unknown encoding_format is refused",
             partial(_refused, {"encoding_format": "hex"})),
            ("unknown-model", "an unknown model is refused",
             partial(_refused, {"model": "no-such-model"})),
        )
    ),
)  # fmt: skip
