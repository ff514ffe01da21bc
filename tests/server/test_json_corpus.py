"""Every body of json_corpus gets the answer that it should."""

from __future__ import annotations

import httpx2

from tests.server.json_corpus import BAD, GOOD, KINDS, wrong_types
from tribody.server.types import ChatRequest

CHAT = "/v1/chat/completions"


def test_there_are_at_least_three_hundred() -> None:
    assert len({*GOOD, *BAD, *(body for _, body in wrong_types())}) >= 300
    assert set(ChatRequest.__struct_fields__) - set(KINDS) <= {"model", "messages", "explain_cache"}


def test_what_json_allows_is_read(http: httpx2.Client) -> None:
    for body in GOOD:
        answer = http.post(CHAT, content=body)
        assert answer.status_code == 200, (body[:300], answer.text)


def test_what_is_no_json_object_is_refused(http: httpx2.Client) -> None:
    for body in BAD:
        answer = http.post(CHAT, content=body)
        assert answer.status_code == 400, (body[:300], answer.text)
        error = answer.json()["error"]
        assert error["code"] == "invalid_json", (body[:300], error)
        assert "Traceback" not in answer.text
    assert http.post(CHAT, content=GOOD[0]).status_code == 200


def test_wrong_types_name_their_field(http: httpx2.Client) -> None:
    for field, body in wrong_types():
        answer = http.post(CHAT, content=body)
        assert answer.status_code == 400, (field, body, answer.text)
        assert answer.json()["error"]["param"].startswith(field), (body, answer.text)
