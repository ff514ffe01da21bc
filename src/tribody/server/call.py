"""One request to be answered: who asks, where, and since when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tribody.core.principal import Principal
from tribody.server.replays import Identity


def _always() -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Call:
    """An HTTP request that generates, or a line of a batch.

    `id` is the server's own; `route` a label from a closed set; `started` by the service's clock.
    `at_ms` is the instant that it is priced at: UTC, milliseconds of the Unix epoch.  `identity`:
    by what it is known if it is sent again.  `given_up` says of a call that is cancelled whether
    whoever asks has cancelled it: a client that leaves has; a batch's line may be cut by a drain,
    and is asked again.  Whoever answers may add to `headers`, which join the answer's.
    """

    id: str
    caller: Principal
    route: str
    started: float
    at_ms: int
    streamed: bool = False
    is_batch: bool = False
    identity: Identity | None = None
    given_up: Callable[[], bool] = _always
    headers: dict[str, str] = field(default_factory=dict)
