"""Chat templates as hostile programs: nothing to reach, nothing that lasts, nothing that dies."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from tribody.core.errors import BadModel, BadRequest
from tribody.core.tokenizer_source import TokenizerSource
from tribody.text.chat_template import ChatTemplate, chat_template_for
from tribody.text.template_engine import MAX_SOURCE_CHARACTERS, TemplateEngine, TemplateFailed

MESSAGES = [{"role": "user", "content": "hello"}]

# Ways out of jinja2's sandbox, published and invented: each must render nothing of Python.
ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ messages.__class__ }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ messages[0].__class__ }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ messages[0]|attr('__init__')|attr('__globals__') }}",
    "{{ messages.__reduce__() }}",
    "{{ messages.__reduce_ex__(2) }}",
    "{{ messages.__getattribute__('append') }}",
    "{{ messages[0].__getitem__('role').__class__ }}",
    "{{ messages.__iter__().__class__ }}",
    "{{ messages.append.__self__ }}",
    "{{ messages[0].get.__self__.__class__ }}",
    "{{ messages[0].items.__func__ }}",
    "{{ messages[0].keys().mapping.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__.co_consts }}",
    "{{ raise_exception.__builtins__ }}",
    "{{ strftime_now.__self__ }}",
    "{{ strftime_now.__self__.__class__ }}",
    "{{ strftime_now.__func__ }}",
    "{{ strftime_now.__reduce__() }}",
    "{{ tojson.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self.__dict__ }}",
    "{{ loop.__class__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ lipsum.__globals__ }}",
    "{{ url_for.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ request.application.__globals__ }}",
    "{{ config.items() }}",
    "{{ dict.__base__ }}",
    "{{ dict.mro() }}",
    "{{ range.__class__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{0.__class__.__mro__}'.format(raise_exception) }}",
    "{{ '{a.__init__.__globals__}'.format_map(messages[0]) }}",
    "{{ '%s'|format(messages.__class__) }}",
    "{{ ('{0.__class__}'|safe).format(messages) }}",
    "{{ [].__class__.__base__ }}",
    "{{ {}.__class__ }}",
    "{{ ().__class__.__bases__[0] }}",
    "{{ 1.0.__class__ }}",
    "{{ none.__class__ }}",
    "{{ true.__class__.__base__ }}",
    "{% set x = messages %}{{ x.__class__ }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__.__mro__ }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{{ m.__globals__ }}{{ m() }}",
    "{% for x in messages.__class__.mro() %}{{ x }}{% endfor %}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% from 'os' import system %}{{ system('id') }}",
    "{% include '/etc/passwd' %}",
    "{% include '../../../../etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{{ include('/etc/passwd') }}",
    "{{ open('/etc/passwd').read() }}",
    "{{ __import__('os').system('id') }}",
    "{{ eval('1') }}",
    "{{ exec('1') }}",
    "{{ globals() }}",
    "{{ vars(messages) }}",
    "{{ debug() }}",
    "{{ messages|map('attr', '__class__')|list }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|map(attribute='__class__.__mro__')|list }}",
    "{{ messages|groupby('__class__') }}",
    "{{ messages|sort(attribute='__class__') }}",
    "{{ messages|sum(attribute='__class__') }}",
    "{{ messages|tojson(default=raise_exception) }}",
    "{{ messages|pprint }}",
]


def engine(source: str) -> ChatTemplate:
    return ChatTemplate(TemplateEngine(source), {}, now=lambda: datetime(2024, 1, 1))


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_to_python(source: str) -> None:
    assert len(ESCAPES) >= 50
    started = time.perf_counter()
    try:
        text = engine(source).render(MESSAGES, add_generation_prompt=True)
    except (BadRequest, TemplateFailed):
        text = ""
    for sign in ("<class", "<function", "<built-in", "<module", "object at 0x", "root:", "uid="):
        assert sign not in text
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{{ messages.pop() }}",
        "{{ messages.sort() }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ messages[0].setdefault('x', 1) }}",
        "{% set messages[0].role = 'system' %}",
    ],
)
def test_messages_cannot_be_changed(source: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    with pytest.raises((BadRequest, TemplateFailed)):
        engine(source).render(messages, add_generation_prompt=True)
    assert messages == [{"role": "user", "content": "hello"}]


LOOPS = [
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999999999) %}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(0) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% set ns = namespace(i=0) %}{% for i in range(99999) %}{% for j in range(99) %}"
    "{% set ns.i = ns.i + 1 %}{% endfor %}{% endfor %}",
    "{{ 'x' * 99999999999 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{{ range(10 ** 12)|list }}",
    "{{ range(10 ** 12)|sum }}",
]


@pytest.mark.parametrize("source", LOOPS)
def test_loops_end_within_a_tenth_of_a_second(source: str) -> None:
    template = engine(source)
    fastest = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        with pytest.raises(BadRequest):
            template.render(MESSAGES, add_generation_prompt=True)
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 0.1


def test_errors_say_whose_doing_it_is() -> None:
    for source, message in (
        ("{{ raise_exception('roles must alternate') }}", "^roles must alternate$"),
        ("{{ raise_exception('x' * 1000) }}", "^x{300}$"),
        ("{{ nope.deeper }}", r"cannot render these messages \(line 1: UndefinedError"),
        (
            "{% for i in range(99999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
            "too long",
        ),
    ):
        with pytest.raises(BadRequest, match=message) as caught:
            engine(source).render(MESSAGES, add_generation_prompt=True)
        assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.startswith('x') }}",
        "{{ messages[0].nope() }}",
        "{{ messages.index('x') }}",
        "{{ messages.count() }}",
        "{{ strftime_now(1) }}",
        "{{ messages|tojson(indent=messages) }}",
    ],
)
def test_python_errors_are_the_templates(source: str) -> None:
    """An AttributeError of our list class had passed through minijinja to the caller."""
    with pytest.raises(BadRequest, match="cannot render these messages"):
        engine(source).render(MESSAGES, add_generation_prompt=True)


def test_errors_never_quote_the_messages() -> None:
    with pytest.raises(BadRequest) as caught:
        engine("{{ messages[0].content.nope.deeper }}").render(
            [{"role": "user", "content": "my secret"}], add_generation_prompt=True
        )
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": {1, 2}.__iter__()}],
        [{"role": "user", "content": "\ud83d"}],
        [{"role": "user", "content": object()}],
    ],
)
def test_only_plain_data(messages: list[dict[str, object]]) -> None:
    with pytest.raises(BadRequest, match="not plain JSON data"):
        engine("{{ messages }}").render(messages, add_generation_prompt=True)


def test_thinking_sets_both_words() -> None:
    template = engine("{{ enable_thinking }}/{{ thinking }}/{{ bos_token }}")
    for thinking, text in ((None, "//"), (True, "True/True/"), (False, "False/False/")):
        assert template.render([], add_generation_prompt=True, thinking=thinking) == text


@pytest.mark.parametrize(
    ("source", "on", "off"),
    [
        ("<A><think>\n", "<A><think>\n", "<A><think>\n\n</think>\n\n"),
        ("<A><think>", "<A><think>", "<A><think>\n\n</think>\n\n"),
        (
            "<A>{{ '<think>' if thinking else '</think>' }}",
            "<A><think>",
            "<A></think>",
        ),
        (
            "<A>{% if enable_thinking is defined and not enable_thinking %}"
            "<think>\n\n</think>\n\n{% endif %}",
            "<A>",
            "<A><think>\n\n</think>\n\n",
        ),
        ("<A>", "<A>", "<A>"),
    ],
    ids=["R1", "open", "V3.1", "Qwen3", "no switch"],
)
def test_prompts_with_thinking_and_without(source: str, on: str, off: str) -> None:
    template = engine(source.replace("\n", "{{ '\\n' }}"))
    assert template.prompt(MESSAGES, thinking=True) == on
    assert template.prompt(MESSAGES, thinking=False) == off


def test_missing_variables_are_empty() -> None:
    assert engine("[{{ nope }}{{ bos_token }}]").render([], add_generation_prompt=True) == "[]"


def test_a_megabyte_of_output() -> None:
    text = engine("{{ messages[0].content }}").render(
        [{"role": "user", "content": "x" * (1 << 20)}], add_generation_prompt=False
    )
    assert len(text) == 1 << 20


def test_long_templates_are_refused() -> None:
    with pytest.raises(TemplateFailed, match="the limit is"):
        TemplateEngine("x" * (MAX_SOURCE_CHARACTERS + 1))


def test_a_models_own_template_comes_before_the_built_in_one() -> None:
    template = chat_template_for(TokenizerSource(chat_template="A"), "deepseek_v3")
    assert template is not None
    assert template.render(MESSAGES, add_generation_prompt=True) == "A"


def test_broken_templates_are_refused_at_load() -> None:
    with pytest.raises(BadModel, match=r"chat template cannot be used: line 2: .*"):
        chat_template_for(TokenizerSource(chat_template="a\n{% if %}"), "llama")
