"""Uploaded files and the results of batches: whose they are, how long they are kept.

A key (without keys: this machine's user) sees its own files only.  Methods write to the disk, so
call those that change something in a thread.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from tribody.core.errors import BadRequest, Overloaded
from tribody.server import limits
from tribody.server.data_folder import DataFolder, new_id

Purpose = Literal["batch", "batch_output", "user_data"]
FILE_ID = re.compile(r"file-api-[0-9a-f]{32}")


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"


class StoredFile(msgspec.Struct, frozen=True):
    """As it stands on the disk beside the file's content."""

    file: FileObject
    owner: str  # a Principal's tenant_id


class FileStore:
    """All files of one data folder."""

    def __init__(self, folder: DataFolder, wall_seconds: Callable[[], float]) -> None:
        self._folder = folder
        self._wall_seconds = wall_seconds
        self._changing = threading.Lock()
        records = folder.records("files", StoredFile)
        self._files = {stored.file.id: stored for stored in records}
        folder.remove_strays("files", ".data", self._files)
        self.sweep()

    def add(self, owner: str, file: FileObject, content: BinaryIO) -> FileObject:
        """Keep a file under the id that it has, in place of what has that id.

        Raises: BadRequest when the owner has too many, Overloaded when the disk is full.
        """
        with self._changing:
            self._refuse_too_many(owner, file)
            try:
                self._folder.copy("files", f"{file.id}.data", content)
                self._folder.write_record("files", file.id, StoredFile(file, owner))
            except OSError as error:
                self._folder.remove("files", f"{file.id}.data")
                raise Overloaded("The file could not be stored; try again later.") from error
            self._files[file.id] = StoredFile(file, owner)
        return file

    def described(
        self,
        filename: str,
        purpose: Purpose,
        size: int,
        keep_seconds: int | None,
        file_id: str = "",
    ) -> FileObject:
        """A file that is made now; its id is drawn if none was reserved."""
        now = int(self._wall_seconds())
        return FileObject(
            id=file_id or new_id("file-api-"),
            bytes=size,
            created_at=now,
            expires_at=None if keep_seconds is None else now + keep_seconds,
            filename=filename,
            purpose=purpose,
        )

    def _refuse_too_many(self, owner: str, file: FileObject) -> None:
        if file.purpose == "batch_output":
            return  # what was computed is not thrown away
        mine = [s.file for s in self._files.values() if s.owner == owner]
        if len(mine) >= limits.MAX_FILES:
            raise BadRequest(
                f"You have {len(mine)} files, and {limits.MAX_FILES} is the most; delete some.",
                param="file",
            )
        if sum(f.bytes for f in mine) + file.bytes > limits.MAX_FILES_BYTES:
            raise BadRequest(
                f"Your files would be larger than {limits.MAX_FILES_BYTES} bytes together; "
                "delete some.",
                param="file",
            )

    def find(self, owner: str, file_id: str, param: str = "file_id") -> FileObject:
        """Raises: BadRequest (404) when the owner has no such file, whoever else may."""
        stored = self._files.get(file_id) if FILE_ID.fullmatch(file_id) else None
        if stored is None or stored.owner != owner or self._is_over(stored):
            raise BadRequest(
                "There is no such file; GET /v1/files lists yours.",
                param=param,
                status=404,
                code="file_not_found",
            )
        return stored.file

    def owned(self, owner: str) -> list[FileObject]:
        """The owner's files, the oldest first."""
        mine = [s for s in self._files.values() if s.owner == owner and not self._is_over(s)]
        return sorted((s.file for s in mine), key=lambda file: (file.created_at, file.id))

    def path(self, file: FileObject) -> Path:
        return self._folder.path("files", f"{file.id}.data")

    def remove(self, file_id: str) -> None:
        with self._changing:
            self._files.pop(file_id, None)
            self._folder.remove("files", f"{file_id}.json", f"{file_id}.data")

    def sweep(self) -> None:
        """Remove what has expired."""
        for stored in list(self._files.values()):
            if self._is_over(stored):
                self.remove(stored.file.id)

    def _is_over(self, stored: StoredFile) -> bool:
        end = stored.file.expires_at
        return end is not None and self._wall_seconds() >= end


def size_of(content: BinaryIO) -> int:
    content.seek(0, os.SEEK_END)
    size = content.tell()
    content.seek(0)
    return size
