"""Whether a grammar can be followed, found out at arm's length.

llguidance counts its own work and stops at a limit, but not in every corner: two large `multipleOf`
of one number take it seconds.  So a process of its own tries each new grammar first; the kernel
ends it when it has computed for 250 ms.  An accepted grammar takes the engine about as long.

It tries with a vocabulary of single bytes: what a grammar costs to compile hardly depends on the
model's.  The module is both ends, as in `template_process`.
"""

from __future__ import annotations

import hashlib
import signal
import threading
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from tribody.core.errors import BadRequest, EngineFailed
from tribody.text import child_process
from tribody.text.child_process import ChildFailed, ChildProcess

COMPILE_SECONDS = 0.25  # of computing.  Schemas that people write take 1 to 50 ms.
DEADLINE_SECONDS = 10.0  # by the clock on the wall, for a crowded machine
START_SECONDS = 60.0  # for starting Python and spelling out a vocabulary, 0.3 s on an idle machine
REMEMBERED = 4096  # verdicts kept, 100 bytes each: most requests repeat a schema

MAX_LEXER_STATES = 16_384  # of one grammar, up to 2 kB each; JSON takes hundreds
STEP_LEXER_FUEL = 100_000  # of one token's mask, about 7 ms
STEP_MAX_ITEMS = 20_000  # the same, about 1 ms


def parser_limits() -> LLParserLimits:
    """What a grammar may take of the server and of the engine."""
    return LLParserLimits(
        max_lexer_states=MAX_LEXER_STATES,
        step_lexer_fuel=STEP_LEXER_FUEL,
        step_max_items=STEP_MAX_ITEMS,
        verbose_errors=False,  # they would hold the text written so far
    )


def compile_grammar(tokenizer: LLTokenizer, grammar: str) -> tuple[LLMatcher, str]:
    """A matcher that has computed its first mask, and what is wrong with it: "" if nothing is."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=parser_limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    problem = matcher.get_error()
    return matcher, "nothing satisfies it" if problem.startswith("NoExtension") else problem


class _Bytes:
    """A vocabulary of single bytes, an end token and, up to a size, nothing."""

    is_tokenizer_wrapper = True
    eos_token_id, bos_token_id = 256, None
    special_token_ids: Sequence[int] = (256,)

    def __init__(self, size: int) -> None:
        self.tokens = [bytes([i]) for i in range(256)] + [b"<end>"]
        self.tokens += [b""] * (size - len(self.tokens))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def byte_tokenizer(vocab_size: int) -> LLTokenizer:
    """Single bytes, with as many ids as the model has, so that a grammar may name special ones."""
    size = max(vocab_size, 257)
    return LLTokenizer(_Bytes(size), n_vocab=size, eos_token=256, slices=[])  # type: ignore[arg-type]


class _Question(msgspec.Struct):
    vocab_size: int
    grammar: str


class GrammarCheck:
    """`check` grammars for models of any vocabulary.  Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child = ChildProcess("tribody.text.grammar_process")
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()

    def check(self, grammar: str, vocab_size: int, param: str) -> None:
        """Raises: BadRequest naming `param` if the grammar is wrong or takes too long;
        EngineFailed if it cannot be tried at all.

        Blocks, for some milliseconds; a first time, and after a hostile one, for 0.3 s.
        """
        question = msgspec.json.encode(_Question(vocab_size, grammar))
        key = hashlib.sha256(question).digest()
        with self._lock:
            verdict = self._verdicts.get(key)
            if verdict is None:
                verdict = self._ask(question, vocab_size)
            self._verdicts[key] = verdict
            self._verdicts.move_to_end(key)
            if len(self._verdicts) > REMEMBERED:
                self._verdicts.popitem(last=False)
        if verdict:
            raise refusal(verdict, param)

    def close(self) -> None:
        """Stop the child; a later `check` starts another."""
        with self._lock:
            self._child.stop()

    def _ask(self, question: bytes, vocab_size: int) -> str:
        if not self._child.runs:
            simplest = msgspec.json.encode(_Question(vocab_size, 'start: "a"'))
            try:
                self._child.ask(simplest, START_SECONDS)
            except ChildFailed as error:
                raise EngineFailed(f"the process that tries grammars {error}") from None
        try:
            return self._child.ask(question, DEADLINE_SECONDS).decode()
        except ChildFailed:
            return f"it takes more than {COMPILE_SECONDS * 1000:.0f} ms to compile; simplify it"


def refusal(problem: str, param: str) -> BadRequest:
    """What llguidance says, without where in the grammar, which only we have seen."""
    lines = problem.split("\n")
    _, mark, rest = lines[0].partition("failed to compile JSON schema: ")
    reason = rest if mark else lines[0]
    if "coerce_one_of" in reason:
        reason = "oneOf is supported where its cases exclude each other; use anyOf"
    reason += "".join(line.removeprefix("error:") for line in lines if line.startswith("error:"))
    reason = reason[:200].rstrip(".: ")
    return BadRequest(f"{param} cannot be followed: {reason}.", param=param)


def main() -> None:
    """The child: tries one grammar after the other."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process
    tokenizers: dict[int, LLTokenizer] = {}
    for body in child_process.questions():
        question = msgspec.json.decode(body, type=_Question)
        tokenizer = tokenizers.get(question.vocab_size)
        if tokenizer is None:
            tokenizer = tokenizers[question.vocab_size] = byte_tokenizer(question.vocab_size)
        signal.setitimer(signal.ITIMER_PROF, COMPILE_SECONDS)
        _, problem = compile_grammar(tokenizer, question.grammar)
        signal.setitimer(signal.ITIMER_PROF, 0)
        child_process.answer(problem.encode())


if __name__ == "__main__":
    main()
