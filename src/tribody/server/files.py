"""/v1/files: what batches read, and what they leave.  The shapes are OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from tribody.core.errors import BadRequest, BadValue
from tribody.core.sampling_ranges import Range
from tribody.server import limits
from tribody.server.file_store import FileObject, size_of
from tribody.server.offline import FilesQuery, Offline, offline_of
from tribody.server.queries import page, query_of
from tribody.server.service import body_parts, ignored_header

MAX_FORM_FIELDS = 16
MAX_FIELD_BYTES = 4_096
READ_BYTES = 1 << 18
UPLOADED = ("batch", "user_data")  # purposes; the third is what the server makes itself
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
KNOWN = ("file", "purpose", ANCHOR, SECONDS)

FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file", "purpose"],
    "dependentRequired": {ANCHOR: [SECONDS], SECONDS: [ANCHOR]},
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {"type": "string", "enum": list(UPLOADED)},
        ANCHOR: {"type": "string", "enum": ["created_at"]},
        SECONDS: {
            "type": "integer",
            "minimum": limits.MIN_KEEP_SECONDS,
            "maximum": limits.MAX_KEEP_SECONDS,
        },
    },
}
# Of multipart/form-data, for /openapi.json.


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def answered(payload: msgspec.Struct, ignored: list[str]) -> Response:
    content = msgspec.json.encode(payload)
    return Response(content, headers=ignored_header(ignored), media_type="application/json")


async def upload(http: HttpRequest) -> Response:
    """POST: multipart, as clients of OpenAI send it.  Raises: BadRequest, Overloaded."""
    offline, owner = offline_of(http), http.state.principal.tenant_id
    form = await _form(http)
    try:
        file, keep = _checked(form), _keep_seconds(form)
        purpose: Any = form["purpose"]
        content: BinaryIO = file.file
        name = file.filename or "file"

        def stored() -> FileObject:
            offline.files.sweep()
            made = offline.files.described(name, purpose, size_of(content), keep)
            return offline.files.add(owner, made, content)

        made = await asyncio.to_thread(stored)
    finally:
        await form.close()
    return answered(made, [name for name in form if name not in KNOWN])


async def _form(http: HttpRequest) -> FormData:
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise BadRequest("Send the file as multipart/form-data.", param="file")
    parser = MultiPartParser(
        http.headers,
        body_parts(http),
        max_files=1,
        max_fields=MAX_FORM_FIELDS,
        max_part_size=MAX_FIELD_BYTES,
    )
    try:
        return await parser.parse()
    except (MultiPartException, UnicodeError) as error:
        shown = error.message if isinstance(error, MultiPartException) else "a name is not text"
        raise BadRequest(f"The form cannot be read: {shown}", param="file") from error


def _checked(form: FormData) -> UploadFile:
    for name in KNOWN:
        if len(form.getlist(name)) > 1:
            raise BadRequest(f"{name} is given twice.", param=name)
    file = form.get("file")
    if file is None or "purpose" not in form:
        missing = "file" if file is None else "purpose"
        raise BadRequest(f"Missing required parameter: '{missing}'.", param=missing)
    if not isinstance(file, UploadFile):
        raise BadValue("file must be sent as a file, with a filename.", param="file")
    limits.check_count(
        "file", len(file.filename or ""), limits.MAX_FILE_NAME, "characters in its name"
    )
    if form["purpose"] not in UPLOADED:
        raise BadValue(f"purpose must be one of {', '.join(UPLOADED)}.", param="purpose")
    return file


def _keep_seconds(form: FormData) -> int | None:
    anchor, seconds = form.get(ANCHOR), form.get(SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise BadValue(f"{ANCHOR} must be created_at.", param="expires_after")
    text = seconds if isinstance(seconds, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadValue(f"{SECONDS} must be a whole number.", param="expires_after")
    check_keep_seconds("expires_after", int(text))
    return int(text)


def check_keep_seconds(param: str, seconds: int) -> None:
    bounds = Range(limits.MIN_KEEP_SECONDS, limits.MAX_KEEP_SECONDS)
    limits.check_bounds(f"{param}.seconds", seconds, bounds)


async def list_files(http: HttpRequest) -> Response:
    """GET: the caller's, the newest first."""
    offline = offline_of(http)
    query, ignored = query_of(http, FilesQuery)
    limits.check_bounds("limit", query.limit, Range(1, limits.MAX_LISTED_FILES))
    found = offline.files.owned(http.state.principal.tenant_id)
    found = [file for file in found if query.purpose in (None, file.purpose)]
    if query.order == "desc":
        found.reverse()
    shown, more = page(found, query.after, query.limit, lambda file: file.id)
    ids: list[str | None] = [file.id for file in shown]
    ids = ids or [None]
    made = FileList(data=shown, first_id=ids[0], last_id=ids[-1], has_more=more)
    return answered(made, ignored)


async def show_file(http: HttpRequest) -> Response:
    _, file = _named(http)
    return answered(file, [])


async def delete_file(http: HttpRequest) -> Response:
    """A batch that reads the file goes on: it has a name of its own for the content."""
    offline, file = _named(http)
    await asyncio.to_thread(offline.files.remove, file.id)
    return answered(FileDeleted(id=file.id), [])


async def file_content(http: HttpRequest) -> Response:
    offline, file = _named(http)
    content = await asyncio.to_thread(open, offline.files.path(file), "rb")
    headers = {"content-length": str(file.bytes)}
    return StreamingResponse(
        _parts(content), headers=headers, media_type="application/octet-stream"
    )


def _parts(content: BinaryIO) -> Iterator[bytes]:
    with content:
        while part := content.read(READ_BYTES):
            yield part


def _named(http: HttpRequest) -> tuple[Offline, FileObject]:
    offline = offline_of(http)
    return offline, offline.files.find(http.state.principal.tenant_id, http.path_params["file_id"])
