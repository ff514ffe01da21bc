"""docs/billing.md: its examples give what it prints, and its price list is the one that ships."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

import pytest

from tribody.billing.tariffs import SHIPPED, Tariff, shipped
from tribody.billing.tariffs_file import RuleFile

PAGE = Path(__file__).parents[2] / "docs" / "billing.md"
TEXT = PAGE.read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_examples_give_what_the_page_prints() -> None:
    """All blocks are one session: later ones use the names of earlier ones."""
    session = "\n".join(block for block in blocks("python") if block.startswith(">>>"))
    test = doctest.DocTestParser().get_doctest(session, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 30
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=said.append)
    assert "".join(said) == ""


def test_the_list_on_the_page_is_sound() -> None:
    whole, extended = blocks("toml")
    problems = Tariff.parse(whole).problems()
    assert [p.severity for p in problems] == ["warning"]
    assert "calendar does not know Fri 2027-01-01 09:00" in problems[0].text
    list_2027 = whole.replace('calendar = "china" ', "#") + extended
    (problem,) = Tariff.parse(list_2027).problems()
    assert "calendar does not know Sat 2028-01-01 09:00" in problem.text


def test_the_list_on_the_page_is_the_shipped_one_in_short() -> None:
    page, start = tomllib.loads(blocks("toml")[0]), tomllib.loads(shipped("start"))
    assert start["free"]["trial"].pop("hit") == 1_000_000
    assert page == start


def test_every_key_of_a_rule_is_described() -> None:
    table = TEXT.partition("| Key of a rule | |")[2].partition("\n\n")[0]
    described = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.M))))
    assert described == {name.rstrip("_") for name in RuleFile.__struct_fields__}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_list_is_described(name) -> None:
    assert f"| `{name}` | " in TEXT
