"""What fuel does not bound costs the template's process, not ours."""

from __future__ import annotations

import os
import signal
import threading
from datetime import datetime

import pytest

from tribody.text import template_process
from tribody.text.template_engine import TemplateFailed
from tribody.text.template_process import TemplateProcess

NOW = datetime(2024, 7, 26)


def test_renders_as_the_engine_does() -> None:
    subject = TemplateProcess("{{ a }}{{ strftime_now('%Y') }}{{ raise_exception('no') if b }}")
    assert subject.render({"a": "é👩‍👩‍👧‍👦\ud7ff"}, NOW) == "é👩‍👩‍👧‍👦\ud7ff2024"
    with pytest.raises(TemplateFailed, match=r"^no$") as caught:
        subject.render({"b": True}, NOW)
    assert caught.value.kind == "raised"
    assert subject.render({"a": "x" * 3_000_000}, NOW) == "x" * 3_000_000 + "2024"
    subject.close()
    assert subject.render({"a": 1}, NOW) == "12024"


BOMBS = {
    "doubled text": "{% set ns = namespace(s='ab') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "repeated output": "{% set x = 'a' * 100000 %}{% for i in range(90000) %}{{ x }}{% endfor %}",
    "cycle": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
    "replace": "{{ ('a' * 1000000)|replace('a', 'b' * 1000)|length }}",
    "sorting": "{% set x = range(99999)|list %}{% for i in range(9999) %}"
    "{% set y = x|sort %}{% endfor %}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_fail_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kills or outlasts its process; the next rendering works again."""
    monkeypatch.setattr(template_process, "DEADLINE_SECONDS", 0.5)
    subject = TemplateProcess("{% if bomb %}" + BOMBS[name] + "{% endif %}fine")
    assert subject.render({}, NOW) == "fine"
    with pytest.raises(TemplateFailed) as caught:
        subject.render({"bomb": True}, NOW)
    assert caught.value.kind == "limit"
    monkeypatch.setattr(template_process, "DEADLINE_SECONDS", 30.0)
    assert subject.render({}, NOW) == "fine"


@pytest.mark.parametrize(
    "source",
    [
        "{% if 0 %}" + "{% elif 0 %}" * 20000 + "{% endif %}",
        "{{ " + "-" * 100_000 + "1 }}",
        "{% if",
    ],
)
def test_templates_that_break_the_compiler_are_refused(source: str) -> None:
    with pytest.raises(TemplateFailed) as caught:
        TemplateProcess(source)
    assert caught.value.kind == "syntax"


def test_a_killed_process_is_replaced() -> None:
    subject = TemplateProcess("fine")
    for _ in range(2):
        child = subject._child._child
        assert child is not None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with pytest.raises(TemplateFailed, match="exhausted its limits"):
            subject.render({}, NOW)
        assert subject.render({}, NOW) == "fine"


def test_the_process_ends_with_its_owner() -> None:
    subject = TemplateProcess("fine")
    child = subject._child._child
    assert child is not None
    del subject
    assert child.poll() is not None


def test_threads_get_their_own_answers() -> None:
    subject = TemplateProcess("{{ a }}")
    wrong: list[str] = []

    def render(name: int) -> None:
        for index in range(50):
            text = subject.render({"a": f"{name}-{index}"}, NOW)
            if text != f"{name}-{index}":
                wrong.append(text)

    threads = [threading.Thread(target=render, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
