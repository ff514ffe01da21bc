"""Files and offline batches, as OpenAI has them."""

from __future__ import annotations

import json
import time
from functools import partial

from tribody.conformance.check import Check, Section
from tribody.conformance.json_value import Value
from tribody.conformance.target import Target
from tribody.conformance.verdict import Failed, Skipped, expect, expect_equal
from tribody.conformance.wire import Answer

PATIENCE_SECONDS = 60.0  # a batch is run at the lowest priority
ENDED = ("completed", "failed", "expired", "cancelled")


def _upload(t: Target, content: bytes, purpose: str = "batch") -> Answer:
    return t.client.send(
        "POST",
        t.path("files"),
        files={"file": ("batch.jsonl", content)},
        data={"purpose": purpose},
    )


def _lines(t: Target) -> bytes:
    """Two requests that can be answered and one that cannot."""
    bodies = [t.body(t.prompts.say(f"Answer {i}."), temperature=0) for i in range(2)]
    bodies.append(t.body("Hello.", temperature=9))
    lines = [
        {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for i, body in enumerate(bodies)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _file(t: Target) -> Value:
    return t.keep("file", lambda: t.needs_200(_upload(t, _lines(t)), "uploading").json())


def file_shape(t: Target) -> None:
    found = _file(t)
    found.at("object").is_("file")
    found.at("purpose").is_("batch")
    found.at("bytes").is_(len(_lines(t)))
    expect(found.at("id").text().startswith("file"), "an id like file-…", found.at("id").raw)
    found.at("created_at").integer()


def file_listed(t: Target) -> None:
    wanted = _file(t).at("id").raw
    listed = t.client.send("GET", t.path("files")).ok()
    ids = [entry.at("id").raw for entry in listed.at("data").items()]
    expect(wanted in ids, f"{wanted!r} in the list", ids)


def file_retrieved(t: Target) -> None:
    wanted = _file(t).at("id").text()
    t.client.send("GET", f"{t.path('files')}/{wanted}").ok().at("id").is_(wanted)


def file_content(t: Target) -> None:
    wanted = _file(t).at("id").text()
    answer = t.client.send("GET", f"{t.path('files')}/{wanted}/content").expect_status(200)
    expect_equal(answer.body, _lines(t), "the content")


def file_deleted(t: Target) -> None:
    wanted = t.needs_200(_upload(t, _lines(t)), "uploading").json().at("id").text()
    path = f"{t.path('files')}/{wanted}"
    t.client.send("DELETE", path).ok().at("deleted").is_(True)
    t.client.send("GET", path).expect_status(404)


def file_unknown(t: Target) -> None:
    for name in ("file-000000000000", "..%2f..%2fetc%2fpasswd", "%00"):
        answer = t.client.send("GET", f"{t.path('files')}/{name}")
        answer.expect_status(400, 404)
        expect(b"root:" not in answer.body, "no file of the machine", answer.body)


def file_purpose(t: Target) -> None:
    _upload(t, _lines(t), "world domination").refused()


def file_missing(t: Target) -> None:
    answer = t.client.send("POST", t.path("files"), data={"purpose": "batch"})
    answer.refused(400, 415, 422)


def _batch(t: Target) -> Value:
    """The batch of our file, ended."""

    def run() -> Value:
        payload = {
            "input_file_id": _file(t).at("id").text(),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        made = t.client.send("POST", t.path("batches"), payload=payload).ok()
        path = f"{t.path('batches')}/{made.at('id').text()}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = t.client.send("GET", path).ok()
            if found.at("status").raw in ENDED:
                return found
            time.sleep(0.2)
        raise Skipped(f"the batch did not end within {PATIENCE_SECONDS:g} s")

    return t.keep("batch", run)


def batch_shape(t: Target) -> None:
    found = _batch(t)
    found.at("object").is_("batch")
    found.at("endpoint").is_("/v1/chat/completions")
    found.at("status").is_("completed")
    found.at("created_at").integer()


def batch_counts(t: Target) -> None:
    found = _batch(t).at("request_counts")
    counts = [found.at(name).integer() for name in ("total", "completed", "failed")]
    expect_equal(counts, [3, 2, 1], "total, completed and failed")


def _results(t: Target, name: str) -> list[Value]:
    wanted = _batch(t).at(name).text()
    answer = t.client.send("GET", f"{t.path('files')}/{wanted}/content").expect_status(200)
    try:
        return [Value(json.loads(line), "a line") for line in answer.body.splitlines() if line]
    except ValueError:
        raise Failed(f"expected lines of JSON in {name}; got {answer.body[:200]!r}") from None


def batch_output(t: Target) -> None:
    found = {line.at("custom_id").text(): line for line in _results(t, "output_file_id")}
    for i in range(2):
        expect(f"line-{i}" in found, f"line-{i} in the output", sorted(found))
        response = found[f"line-{i}"].at("response")
        response.at("status_code").is_(200)
        said = response.at("body", "choices", 0, "message", "content").text()
        t.obeyed(said.strip() == f"Answer {i}.", f"the answer to line-{i}", said)


def batch_errors(t: Target) -> None:
    whole = _results(t, "output_file_id")
    if not _batch(t).maybe("error_file_id").null:
        whole += _results(t, "error_file_id")
    bad = [line for line in whole if line.at("custom_id").raw == "line-2"]
    expect(bad, "line-2 among the results", "none")
    status = bad[0].maybe("response", "status_code").raw
    expect(status in (400, 422) or not bad[0].maybe("error").null, "its error", bad[0].raw)


def batch_listed(t: Target) -> None:
    wanted = _batch(t).at("id").raw
    ids = [b.at("id").raw for b in t.client.send("GET", t.path("batches")).ok().at("data").items()]
    expect(wanted in ids, f"{wanted!r} in the list", ids)


def _refused(fields: dict[str, object], t: Target) -> None:
    payload = {"input_file_id": _file(t).at("id").text(), "endpoint": "/v1/chat/completions",
               "completion_window": "24h", **fields}  # fmt: skip
    t.client.send("POST", t.path("batches"), payload=payload).refused(400, 404, 422)


def batch_unknown(t: Target) -> None:
    t.client.send("GET", f"{t.path('batches')}/batch_nobody").expect_status(400, 404)


def batch_cancel_ended(t: Target) -> None:
    path = f"{t.path('batches')}/{_batch(t).at('id').text()}/cancel"
    t.client.send("POST", path, payload={}).expect_status(200, 400, 409)


SECTION = Section(
    "batches",
    "Files and batches",
    (
        Check("batches.file", "an uploaded file has id, bytes and purpose", file_shape,
              ("files",)),
        Check("batches.file-listed", "files are listed", file_listed, ("files",)),
        Check("batches.file-get", "a file can be looked up", file_retrieved, ("files",)),
        Check("batches.file-content", "its content is what was sent", file_content, ("files",)),
        Check("batches.file-delete", "a deleted file is gone", file_deleted, ("files",)),
        Check("batches.file-unknown", "an unknown file is a 404, whatever its name",
              file_unknown, ("files",)),
        Check("batches.file-purpose", "an unknown purpose is refused", file_purpose, ("files",)),
        Check("batches.file-missing", "an upload without a file is refused", file_missing,
              ("files",)),
        Check("batches.shape", "a batch is completed", batch_shape, ("files", "batches")),
        Check("batches.counts", "request_counts are right", batch_counts, ("files", "batches")),
        Check("batches.output", "answers stand in the output file by custom_id", batch_output,
              ("files", "batches")),
        Check("batches.errors", "a wrong line has its error", batch_errors, ("files", "batches")),
        Check("batches.listed", "batches are listed", batch_listed, ("files", "batches")),
        Check("batches.no-file", "an unknown input file is refused",
              partial(_refused, {"input_file_id": "file-nobody"}), ("files", "batches")),
        Check("batches.endpoint", "an unknown endpoint is refused",
              partial(_refused, {"endpoint": "/v1/nothing"}), ("files", "batches")),
        Check("batches.unknown", "an unknown batch is a 404", batch_unknown, ("batches",)),
        Check("batches.cancel-ended", "cancelling an ended batch does no harm",
              batch_cancel_ended, ("files", "batches")),
    ),
)  # fmt: skip
