"""Where an answer has left its script because of a grammar, and what then comes first.

A script knows nothing of the grammar that an answer has to follow.  As long as the grammar allows
what the script says, the script is followed.  From the first token that it does not allow, the
answer has to be ended by other means: of the tokens that are allowed, those that end things come
first, and among the rest those that were not used for longest, so that no repetition lasts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tribody.engine import scripted_text as text
from tribody.text.tokenizer import Tokenizer

_ENDS = (text.CALLS_END, text.CALL_END, text.TOOL_SEP, text.CALLS_BEGIN, text.CALL_BEGIN)
_CLOSERS = "}],:"
_ORDINARY = "0123456789ftn{[-" + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_."
_RESTARTS = (text.TOOL_SEP, text.END_THINK)  # a JSON text may begin behind them


@dataclass(slots=True)
class Followed:
    """What is known of the first `length` tokens of one answer."""

    length: int = 0
    on_script: bool = True
    in_string: bool = False  # of JSON
    escaped: bool = False
    last_use: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Followed:
        return replace(self, last_use=dict(self.last_use))


class Order:
    """Ranks the vocabulary of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, eos_token_id: int) -> None:
        def ids(texts: Iterable[str]) -> list[int]:
            return [i for i in map(single, texts) if i is not None]

        def single(one: str) -> int | None:
            found = tokenizer.encode(one, add_special_tokens=False)
            return found[0] if len(found) == 1 else None

        self._quote = ids('"')
        self._backslash = ids("\\")
        self._restarts = frozenset(ids(_RESTARTS))
        self._ends = [eos_token_id, *ids(_ENDS)]
        self._closers = ids(_CLOSERS)
        self.ordinary = ids(dict.fromkeys(_ORDINARY))  # digits and letters
        known = {*self._ends, *self._closers, *self.ordinary, *self._quote}
        self._rest = [i for i in range(tokenizer.vocab_size) if i not in known]

    def take(self, followed: Followed, token_id: int) -> None:
        """Note the answer's next token."""
        followed.last_use[token_id] = followed.length
        followed.length += 1
        if token_id in self._restarts:
            followed.in_string = followed.escaped = False
            followed.last_use.clear()  # an answer is the same with thinking before it
        elif followed.escaped:
            followed.escaped = False
        elif followed.in_string and token_id in self._backslash:
            followed.escaped = True
        elif token_id in self._quote:
            followed.in_string = not followed.in_string

    def ranked(self, followed: Followed) -> list[int]:
        """All token ids, the one to be wished for first."""
        used = followed.last_use
        # Sorting is stable: among those not used yet the given order stays.
        ordinary = sorted(self.ordinary, key=lambda i: used.get(i, -1))
        if followed.in_string:
            return [*self._quote, *ordinary, *self._closers, *self._rest, *self._ends]
        return [*self._ends, *self._closers, *self._quote, *ordinary, *self._rest]
