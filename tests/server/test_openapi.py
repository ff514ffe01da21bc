"""/openapi.json says what validation does: bounds, names, counts, and which statuses there are."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tribody.server.answer_grammar import FORMATS
from tribody.server.anthropic_request import ANTHROPIC_ROLES, BLOCK_TYPES
from tribody.server.limits import DEFAULTS, NUMBERS
from tribody.server.messages import ROLES
from tribody.server.openapi_schemas import BLOCKS_NEED, BLOCKS_OF, PARTS_NEED, VARIANTS
from tribody.server.responses_request import ITEM_TYPES, PART_TYPES
from tribody.server.routes import ROUTES


@pytest.fixture
def document(http: httpx2.Client) -> dict[str, Any]:
    answer = http.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def test_every_route_is_described(document: dict[str, Any]) -> None:
    shown = {path.replace(":path}", "}") for route in ROUTES for path in route.paths}
    assert set(document["paths"]) == shown
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert {"200", "400", "422", "503"} <= set(operation["responses"]), path


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [r for item in value.values() for r in references(item)]
        if isinstance(value, list):
            return [r for item in value for r in references(item)]
        return []

    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= names


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_bounds_are_the_limits(document: dict[str, Any], name: str) -> None:
    others = dict.fromkeys(("logprobs", "best_of"), "CompletionRequest")
    request = (others | {"max_output_tokens": "ResponsesRequest"}).get(name, "ChatRequest")
    field = document["components"]["schemas"][request]["properties"][name]
    number = next(a for a in field["anyOf"] if a["type"] in ("integer", "number"))
    assert number["maximum"] == NUMBERS[name].maximum
    assert number.get("minimum", number.get("exclusiveMinimum")) == NUMBERS[name].minimum
    assert field["default"] == DEFAULTS.get(name)


def test_models_are_those_that_answer(document: dict[str, Any]) -> None:
    request = document["components"]["schemas"]["ChatRequest"]
    assert request["properties"]["model"]["enum"] == ["deepseek-chat", "scripted"]
    assert set(request["required"]) == {"model", "messages"}


def test_all_variants_are_described() -> None:
    known = {
        "ChatMessage": ROLES,
        "InputItem": ITEM_TYPES,
        "ResponseFormat": FORMATS,
        "TextFormat": FORMATS,
    }
    shown = {name: {v for values in kinds for v in values} for name, (_, kinds) in VARIANTS.items()}
    assert shown == {name: set(values) for name, values in known.items()}
    assert {kind for kinds in PARTS_NEED for kind in kinds} == set(PART_TYPES)
    assert set(BLOCKS_NEED) == set(BLOCK_TYPES)
    assert set(BLOCKS_OF) == set(ANTHROPIC_ROLES)


def test_events_of_a_stream_are_described(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = schema.get("schema", {}).get("$ref", "").rpartition("/")[2]
            fields = document["components"]["schemas"].get(name, {}).get("properties", {})
            streams = "text/event-stream" in operation["responses"]["200"]["content"]
            assert streams == ("stream" in fields), path
