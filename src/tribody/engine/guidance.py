"""Which tokens may come next in an answer that follows a grammar.

A grammar is compiled in a thread of its own, once for all requests that name it, while its request
waits.  Every choice then has a walk: a matcher that has consumed what the choice generated, which
gives the mask of the tokens that may follow.  The walk keeps nothing that it could not find again
by consuming the choice's tokens once more, so preemption and a restart of the engine need nothing
of it.

Masks are not computed beside the model: one takes 5 to 30 us, few 0.5 ms (49,152 tokens; 129,280:
10 to 50 us, few 1.3 ms), and the model's threads have all cores.

All walks of one grammar share its automaton, which grows as they meet new text.  One that outgrows
its limit fails for all of them, and is compiled anew for later requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from llguidance import LLMatcher, LLTokenizer

from tribody.core.errors import BadModel
from tribody.core.request import Request, SampleSlot
from tribody.text.grammar_process import compile_grammar
from tribody.text.tokenizer import Tokenizer

MAX_CACHED_GRAMMARS = 32
MAX_CACHED_BYTES = 1 << 20
# Of grammars' text.  A compiled one takes up to 100 times its text (1,000 optional properties;
# most take too little to be measured), and a spent automaton less than 1 MB.

UNUSABLE = "the engine could not prepare the grammar of this answer for the model's vocabulary"
LOST = "the grammar of this answer exhausted its limits; use a simpler one"

Ready = tuple[str, str | None]  # request id, and why it cannot begin


@dataclass(slots=True)
class _Walk:
    matcher: LLMatcher
    num_consumed: int = 0


class Guidance:
    """`begin` a request's grammar, wait until it is `ready`, then ask for `mask`s until `end`.

    One thread may use it.  `vocab_size`: the model's, which is the length of its logits.
    """

    def __init__(
        self, tokenizer: Callable[[], Tokenizer], vocab_size: int, eos_token_ids: frozenset[int]
    ) -> None:
        """`tokenizer` is asked for by the first grammar."""
        self._vocab_size = vocab_size
        self._eos = eos_token_ids
        self._vocabulary: Future[LLTokenizer] = Future()
        self._make_vocabulary = lambda: ll_tokenizer(tokenizer(), vocab_size, eos_token_ids)
        self._thread: ThreadPoolExecutor | None = None
        self._cache: OrderedDict[str, Future[LLMatcher | None]] = OrderedDict()
        self._preparing: dict[str, Future[LLMatcher | None]] = {}
        self._matchers: dict[str, LLMatcher] = {}  # by request, at the beginning
        self._walks: dict[tuple[str, int], _Walk] = {}

    # ---- grammars

    def begin(self, request: Request) -> None:
        """Prepare the request's grammar."""
        grammar = request.sampling.grammar
        assert grammar is not None
        compiled = self._cache.get(grammar)
        if compiled is None:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")
                self._vocabulary = self._thread.submit(self._make_vocabulary)
            compiled = self._cache[grammar] = self._thread.submit(self._compile, grammar)
        self._cache.move_to_end(grammar)
        self._preparing[request.id] = compiled
        self._shrink()

    def _compile(self, grammar: str) -> LLMatcher | None:
        """In the thread: None if it cannot be followed."""
        matcher, problem = compile_grammar(self._vocabulary.result(), grammar)
        return None if problem else matcher

    def _shrink(self) -> None:
        """Forget the grammars used longest ago; requests keep what they hold."""
        size = sum(map(len, self._cache))
        while len(self._cache) > MAX_CACHED_GRAMMARS or size > MAX_CACHED_BYTES:
            if len(self._cache) == 1:
                break
            grammar, _ = self._cache.popitem(last=False)
            size -= len(grammar)

    @property
    def is_preparing(self) -> bool:
        return bool(self._preparing)

    def ready(self, seconds: float = 0.0) -> list[Ready]:
        """The requests that may begin now, after at most so long."""
        if seconds and self._preparing:
            wait(set(self._preparing.values()), seconds, FIRST_COMPLETED)
        found: list[Ready] = []
        for request_id in [r for r, compiled in self._preparing.items() if compiled.done()]:
            compiled = self._preparing.pop(request_id)
            problem: str | None = UNUSABLE
            try:
                matcher = compiled.result()
            except BadModel as bad:
                matcher, problem = None, str(bad)
            if matcher is not None:
                self._matchers[request_id] = matcher
                problem = None
            found.append((request_id, problem))
        return found

    # ---- tokens

    def mask(self, slot: SampleSlot) -> bytes | None:
        """A bit for each token that may follow, the first token in the lowest bit of the first
        byte; None when the grammar gave up.

        A token that ends the answer is among them only where the grammar may end; a request that
        ignores it gets it only where nothing else may follow.
        """
        key = slot.request_id, slot.choice
        walk = self._walks.get(key)
        if walk is None:
            matcher = self._matchers[slot.request_id].deep_copy()
            walk = self._walks[key] = _Walk(matcher)
        matcher = walk.matcher
        num_known = len(slot.generated) + len(slot.drafts)
        if walk.num_consumed > num_known:  # of drafts that did not become part of the answer
            matcher.reset()
            walk.num_consumed = 0
        if walk.num_consumed < num_known:
            known = slot.generated[walk.num_consumed :] + slot.drafts
            matcher.consume_tokens(known[walk.num_consumed - num_known :])
            walk.num_consumed = num_known
        allowed = b"" if matcher.is_error() else matcher.compute_bitmask()
        if matcher.is_error():
            self._give_up(slot)
            return None
        if slot.params.ignore_eos:
            without = cleared(allowed, self._eos)
            allowed = without if any(without) else allowed
        return allowed

    def _give_up(self, slot: SampleSlot) -> None:
        """The automaton may be spent: later requests get a new one."""
        self._cache.pop(slot.params.grammar or "", None)

    def end(self, request_id: str, choice: int, *, is_last: bool) -> None:
        """A choice is over; with the last one its request is."""
        self._walks.pop((request_id, choice), None)
        if is_last:
            self._matchers.pop(request_id, None)
            compiled = self._preparing.pop(request_id, None)
            if compiled is not None and compiled not in self._preparing.values():
                self._give_back(compiled)

    def _give_back(self, compiled: Future[LLMatcher | None]) -> None:
        """Nobody waits for this any more: it is not compiled if that has not begun."""
        if compiled.cancel():
            for grammar in [g for g, known in self._cache.items() if known is compiled]:
                del self._cache[grammar]

    def check(self) -> None:
        """Nothing is held for requests that are over, when none is left."""
        assert not self._walks
        assert not self._matchers
        assert not self._preparing


def cleared(mask: bytes, token_ids: frozenset[int]) -> bytes:
    """The mask without these tokens."""
    bits = bytearray(mask)
    for token in token_ids:
        bits[token >> 3] &= ~(1 << (token & 7))
    return bytes(bits)


class _Vocabulary:
    """What llguidance asks of a tokenizer: the bytes of every token, and how text becomes tokens.

    Special tokens are no text: only a grammar that names one by its id allows it.
    """

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: int) -> None:
        self.eos_token_id = eos
        self.bos_token_id = tokenizer.bos_token_id
        self.tokens = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        ids = range(min(vocab_size, tokenizer.vocab_size))
        self.special_token_ids: Sequence[int] = [i for i in ids if tokenizer.is_special(i)]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        return self._tokenizer.encode(text, add_special_tokens=False, parse_special=False)


def ll_tokenizer(
    tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]
) -> LLTokenizer:
    """llguidance's view of a vocabulary: 0.3 s and 75 MB for 49,152 tokens, 1 s and 200 MB for
    129,280.  It keeps the interpreter to itself for most of that, so steps pause, this once.

    Raises: BadModel if the model has no end token, which is how an answer ends here.
    """
    if not eos_token_ids:
        raise BadModel(
            "this model has no end-of-sequence token, which an answer by a grammar needs"
        )
    ends = sorted(eos_token_ids)
    vocabulary = _Vocabulary(tokenizer, vocab_size, ends[0])
    return LLTokenizer(vocabulary, n_vocab=vocab_size, eos_token=ends)  # type: ignore[arg-type]
