"""Strict tools: which schemas are accepted, and that calls obey them (contract 6)."""

from __future__ import annotations

from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.checks.tools import arguments_of, calls_of
from tribody.conformance.target import Target, function
from tribody.conformance.verdict import expect


def _schema(**more: object) -> dict[str, object]:
    """A strict schema with one property `x` of `more`."""
    return {
        "type": "object",
        "properties": {"x": more},
        "required": ["x"],
        "additionalProperties": False,
    }


def strict_accepted(t: Target) -> None:
    good = (
        _schema(type="string", pattern="^a+$"),
        _schema(type="string", format="email"),
        _schema(type="integer", minimum=1, maximum=9),
        _schema(type="string", enum=["a", "b"]),
        _schema(anyOf=[{"type": "string"}, {"type": "integer"}]),
        _schema(type="array", items={"type": "boolean"}),
    )
    for schema in good:
        tool = function("f", parameters=schema, strict=True)
        answer = t.beta(t.prompts.say("Yes."), tools=[tool])
        expect(answer.status == 200, f"200 for {schema['properties']!r}", answer.status)


STRICT_REFUSED = {
    "additional": ({"type": "object", "properties": {}, "required": []},
                   "additionalProperties left open"),
    "required": ({**_schema(type="string"), "required": []}, "a property that is not required"),
    "min-length": (_schema(type="string", minLength=2), "minLength"),
    "max-length": (_schema(type="string", maxLength=2), "maxLength"),
    "min-items": (_schema(type="array", items={"type": "string"}, minItems=1), "minItems"),
    "max-items": (_schema(type="array", items={"type": "string"}, maxItems=1), "maxItems"),
    "type": (_schema(type="strng"), "an unknown type"),
    "format": (_schema(type="string", format="color"), "an unknown format"),
    "nested": (_schema(type="object", properties={"y": {"type": "string"}}),
               "an open object inside"),
}  # fmt: skip


def _strict_refused(name: str, t: Target) -> None:
    tool = function("f", parameters=STRICT_REFUSED[name][0], strict=True)
    t.beta(t.prompts.say("No."), tools=[tool]).refused()


def strict_call(t: Target) -> None:
    """The arguments of a strict call obey the schema, whatever the model would have liked."""
    tool = function("pick", parameters=_schema(type="string", enum=["red", "blue"]), strict=True)
    choice = {"type": "function", "function": {"name": "pick"}}
    answer = t.beta("Pick a colour.", tools=[tool], tool_choice=choice, max_tokens=128)
    found = arguments_of(calls_of(t.needs_200(answer, "a named choice").json())[0])
    expect(found in ({"x": "red"}, {"x": "blue"}), "red or blue for x", found)


SECTION = Section(
    "strict",
    "Strict tools",
    (
        Check("strict.accepted", "strict schemas of the documented kinds are accepted",
              strict_accepted, ("beta",)),
        *(
            Check(f"strict.{name}", f"strict: {what} is refused",
                  partial(_strict_refused, name), ("beta",))
            for name, (_, what) in STRICT_REFUSED.items()
        ),
        Check("strict.call", "a strict call obeys its schema", strict_call, ("beta",)),
    ),
)  # fmt: skip
