"""The loop of a measuring process: one JSON object a line in, one out.

A question names its "op"; the rest are the operation's arguments.  Whatever else the process or
its libraries print goes to stderr, so that the answers stay whole.  A process that cannot answer
dies, and its traceback says why.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping

Record = dict[str, object]


def answer_questions(operations: Mapping[str, Callable[..., Record]]) -> None:
    """Until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        answers.write(json.dumps(operations[question.pop("op")](**question)) + "\n")
        answers.flush()
