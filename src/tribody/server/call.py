"""One request to be answered: who asks, where, and since when."""

from __future__ import annotations

from dataclasses import dataclass, field

from tribody.core.principal import Principal
from tribody.server.replays import Identity


@dataclass(frozen=True, kw_only=True)
class Call:
    """An HTTP request that generates, or a line of a batch.

    `id` is the server's own; `route` a label from a closed set; `started` by the service's clock.
    `at_ms` is the instant that it is priced at: UTC, milliseconds of the Unix epoch.  Whoever
    answers may add to `headers`, which join the answer's.  `identity`: by what it is known if it is
    sent again.
    """

    id: str
    caller: Principal
    route: str
    started: float
    at_ms: int
    streamed: bool = False
    is_batch: bool = False
    identity: Identity | None = None
    headers: dict[str, str] = field(default_factory=dict)
