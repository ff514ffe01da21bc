"""The prefix cache as its users see it: hits, units, isolation (contract 8).

Every check uses texts of its own, drawn anew in each run, so that earlier runs leave it no hits.
"""

from __future__ import annotations

import math
import secrets
import time

from tribody.conformance.check import ONLY_2026, Check, Section
from tribody.conformance.checks.plain import message
from tribody.conformance.checks.usage import check_cache
from tribody.conformance.json_value import Value
from tribody.conformance.target import Target
from tribody.conformance.verdict import Failed, Skipped, expect, expect_equal

PREFIX_WORDS = 110  # some hundreds of tokens in any vocabulary, and within a small context
TRIES = 4  # the contract builds caches "in seconds"
PAUSE_SECONDS = 0.5


def words(count: int) -> str:
    """Text that no cache has seen."""
    return " ".join(secrets.token_hex(2) for _ in range(count))


def _ask(t: Target, text: str, **fields: object) -> Value:
    asked = f"{text} {t.prompts.say('Yes.')}"
    return t.chat(asked, temperature=0, max_tokens=8, **fields).ok()


def hits(answer: Value) -> int:
    return answer.at("usage", "prompt_cache_hit_tokens").integer()


def _hits_soon(t: Target, text: str, **fields: object) -> int:
    """The hits of `text`, asked again while there are none."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        # A different end each time: the attempts must not feed each other.
        found = hits(_ask(t, f"{text} {words(3)}", **fields))
        if found:
            return found
    return 0


def fresh(t: Target) -> None:
    """What nobody has sent before was not in the cache, but for the template's first tokens."""
    answer = _ask(t, words(PREFIX_WORDS))
    check_cache(answer.at("usage"))
    prompt = answer.at("usage", "prompt_tokens").integer()
    expect(hits(answer) < prompt / 2, "few hits for new text", f"{hits(answer)} of {prompt}")


def continued(t: Target) -> None:
    """A+B, then A+B+C: most of A+B is a hit."""
    text = words(PREFIX_WORDS)
    first = _ask(t, text).at("usage", "prompt_tokens").integer()
    found = _hits_soon(t, text)
    expect(found >= first / 2, f"hits of about the first {first} tokens", found)


def conversation(t: Target) -> None:
    """The next turn of a conversation hits the last one."""
    opening = {"role": "user", "content": f"{words(PREFIX_WORDS)} {t.prompts.say('Yes.')}"}
    first = t.chat([opening], temperature=0, max_tokens=8).ok()
    tokens = first.at("usage", "prompt_tokens").integer()
    turn = {"role": "assistant", "content": message(first).at("content").text()}
    more = {"role": "user", "content": t.prompts.say("Yes.")}
    found = 0
    for _ in range(TRIES):
        found = hits(t.chat([opening, turn, more], temperature=0, max_tokens=8).ok())
        if found:
            break
        time.sleep(PAUSE_SECONDS)
    expect(found >= tokens / 2, f"hits of about the first {tokens} tokens", found)


def common_prefix(t: Target) -> None:
    """A+B, A+C, then A+D: A is a hit (earlier hits are allowed)."""
    common = words(PREFIX_WORDS)
    for _ in range(2):
        _ask(t, f"{common} {words(20)}")
    found = _hits_soon(t, common)
    expect(found > 0, "hits of the common prefix", found)


def other_start(t: Target) -> None:
    """Prefixes count from token 0: the same text behind another beginning is no hit."""
    text = words(PREFIX_WORDS)
    _ask(t, text)
    answer = _ask(t, f"{words(8)} {text}")
    prompt = answer.at("usage", "prompt_tokens").integer()
    expect(hits(answer) < prompt / 2, "few hits behind another start", f"{hits(answer)}/{prompt}")


def units(t: Target) -> None:
    """Hits come in whole units, whatever the unit is."""
    found = []
    for count in (60, 73, 86, 97, 110):
        text = words(count)
        _ask(t, text)
        found.append(_hits_soon(t, text))
    unit = math.gcd(*found)
    expect(any(found), "hits", found)
    expect(unit > 1, "hits that are multiples of one unit", found)


def short(t: Target) -> None:
    for _ in range(2):
        answer = t.chat(t.prompts.say("Hm."), temperature=0, max_tokens=4).ok()
    tokens = answer.at("usage", "prompt_tokens").integer()
    check_cache(answer.at("usage"))
    if tokens >= 64:
        raise Skipped(f"the shortest prompt has {tokens} tokens: a unit fits into it")
    expect(hits(answer) == 0, "no hits in less than 64 tokens", hits(answer))


def users_apart(t: Target) -> None:
    """What one end user sent is no hit for another, and is one for the first."""
    text = words(PREFIX_WORDS)
    one, other = f"u-{secrets.token_hex(8)}", f"u-{secrets.token_hex(8)}"
    half = _ask(t, text, user_id=one).at("usage", "prompt_tokens").integer() / 2
    stranger = hits(_ask(t, text, user_id=other))
    expect(stranger < half, "few hits for another user_id", stranger)
    own = _hits_soon(t, text, user_id=one)
    expect(own >= half, f"at least {half:.0f} hits for the same user_id", own)


def user_and_nobody(t: Target) -> None:
    """Requests without user_id are a user of their own."""
    text = words(PREFIX_WORDS)
    named = _ask(t, text, user_id=f"u-{secrets.token_hex(8)}")
    found = hits(_ask(t, text))
    half = named.at("usage", "prompt_tokens").integer() / 2
    expect(found < half, "few hits without user_id", found)


def same_answer(t: Target) -> None:
    ask = f"{words(PREFIX_WORDS)} {t.prompts.count(12)}"
    answers = [t.chat(ask, temperature=0, max_tokens=12).ok() for _ in range(3)]
    texts = {message(answer).at("content").text() for answer in answers}
    expect(len(texts) == 1, "one text, hit or miss", texts)
    for name in ("prompt_tokens", "completion_tokens"):
        counts = {answer.at("usage", name).integer() for answer in answers}
        expect_equal(len(counts), 1, f"distinct {name}")


def streamed(t: Target) -> None:
    text = words(PREFIX_WORDS)
    _ask(t, text)
    asked = f"{text} {t.prompts.say('Yes.')}"
    for _ in range(TRIES):
        usage = t.stream(asked, temperature=0, max_tokens=8,
                         stream_options={"include_usage": True}).usage  # fmt: skip
        check_cache(usage)
        if usage.at("prompt_cache_hit_tokens").integer() > 0:
            return
        time.sleep(PAUSE_SECONDS)
    raise Failed("expected hits in the usage of a stream; got none")


SECTION = Section(
    "cache",
    "Prefix cache",
    (
        Check("cache.fresh", "new text is a miss", fresh),
        Check("cache.continued", "A+B, then A+B+C: A+B is a hit", continued),
        Check("cache.conversation", "the next turn of a conversation hits the last", conversation),
        Check("cache.common", "A+B, A+C, then A+D: A is a hit", common_prefix),
        Check("cache.other-start", "the same text behind another start is a miss", other_start),
        Check("cache.units", "hits are multiples of a unit", units),
        Check("cache.short", "what is shorter than a unit is never a hit", short),
        Check("cache.users", "user_id keeps end users apart", users_apart, (), ONLY_2026),
        Check("cache.nobody", "no user_id is a user of its own", user_and_nobody, (), ONLY_2026),
        Check("cache.same-answer", "hit or miss, the same answer", same_answer),
        Check("cache.streamed", "streams report hits too", streamed),
    ),
)
