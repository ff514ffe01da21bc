"""Files and batches of one server, or none: what its endpoints find at `app.state.offline`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
from starlette.requests import Request as HttpRequest

from tribody.core.errors import BadRequest
from tribody.server import limits
from tribody.server.batch_runner import BatchRunner
from tribody.server.data_folder import DataFolder
from tribody.server.file_store import FileStore, Purpose
from tribody.server.service import Service


@dataclass
class Offline:
    """What lives in the data folder."""

    folder: DataFolder
    files: FileStore
    batches: BatchRunner

    @classmethod
    def in_folder(cls, service: Service, folder: DataFolder) -> Offline:
        """Read what is there.  Raises: BadConfig."""
        files = FileStore(folder, service.wall_seconds)
        return cls(folder, files, BatchRunner(service, folder, files))

    async def close(self) -> None:
        """Stop all work; what has not ended is gone on with by whoever opens the folder next."""
        await self.batches.stop()
        self.folder.close()


def offline_of(http: HttpRequest) -> Offline:
    """Raises: BadRequest (404) where the server keeps nothing."""
    offline: Offline | None = http.app.state.offline
    if offline is None:
        raise BadRequest(
            "This server keeps no files and runs no batches: its data folder is another server's, "
            "or cannot be used. Start it with a --data-dir of its own.",
            status=404,
            code="no_data_folder",
        )
    return offline


# --- lists -----------------------------------------------------------------------------------


class FilesQuery(msgspec.Struct, frozen=True, kw_only=True):
    after: str | None = None
    limit: int = limits.MAX_LISTED_FILES
    order: Literal["asc", "desc"] = "desc"
    purpose: Purpose | None = None


class BatchesQuery(msgspec.Struct, frozen=True, kw_only=True):
    after: str | None = None
    limit: int = 20
