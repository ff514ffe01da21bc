"""Files and batches of one server, or none: what its endpoints find at `app.state.offline`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest

from tribody.core.errors import BadRequest, BadValue
from tribody.core.sampling_ranges import Range
from tribody.server import limits
from tribody.server.batch_runner import BatchRunner
from tribody.server.data_folder import DataFolder
from tribody.server.errors import bad_json
from tribody.server.file_store import FileStore, Purpose
from tribody.server.service import Service

T = TypeVar("T")


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


Q = TypeVar("Q", FilesQuery, BatchesQuery)


def query_of(http: HttpRequest, kind: type[Q], most: int) -> tuple[Q, list[str]]:
    """The parameters, and the names of those that are not known.  Raises: BadRequest."""
    given = dict(http.query_params)
    try:
        query = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise bad_json(error) from error
    for name in kind.__struct_fields__:
        if name in given and getattr(query, name) is None:  # msgspec reads "null" as none
            raise BadValue(f"{name} must be left out or have a value.", param=name)
        if len(http.query_params.getlist(name)) > 1:
            raise BadValue(f"{name} is given twice.", param=name)
    limits.check_bounds("limit", query.limit, Range(1, most))
    return query, [name for name in given if name not in kind.__struct_fields__]


def page(
    found: list[T], after: str | None, limit: int, id_of: Callable[[T], str]
) -> tuple[list[T], bool]:
    """What follows the one named `after`, `limit` at most, and whether there is more.

    Raises: BadRequest (404) when that is not in the list.
    """
    if after is not None:
        ids = [id_of(one) for one in found]
        if after not in ids:
            raise BadRequest("after names nothing that is listed.", param="after", status=404)
        found = found[ids.index(after) + 1 :]
    return found[:limit], len(found) > limit
