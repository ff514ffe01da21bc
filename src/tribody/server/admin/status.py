"""/admin/status: how the books are doing."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tribody.billing.entries import chain_end
from tribody.billing.reservations import num_open_reservations
from tribody.billing.tariff_store import TariffUse, tariff_uses
from tribody.core.version import VERSION
from tribody.server.admin.book_types import StatusShown
from tribody.server.admin.state import answered, state_of
from tribody.storage.database import Database
from tribody.storage.revisions import revisions


async def show_status(http: HttpRequest) -> Response:
    """GET.  Raises: StorageFailed where the database cannot be read."""
    state = state_of(http)

    def read(db: Database) -> tuple[dict[str, int], int, int, list[TariffUse]]:
        num_open = num_open_reservations(db)
        return revisions(db), chain_end(db)[0], num_open, tariff_uses(db)

    numbers, entries, num_open, uses = await state.read(read)
    return answered(
        StatusShown(
            version=VERSION,
            node_id=state.node_id,
            writer_failure=state.writer.failure,
            tenancy_revision=numbers.get("tenancy", 0),
            tariffs_revision=numbers.get("tariffs", 0),
            tariff_digest=uses[-1].digest if uses else None,
            directory_revision=state.directory.revision,
            directory_is_stale=state.directory.is_stale,
            directory_age_ms=int(state.directory.age_seconds * 1e3),
            entries=entries,
            open_reservations=num_open,
        )
    )
