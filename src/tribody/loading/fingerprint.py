"""A name for a set of weights that is cheap to compute and changes when they change.

The fingerprint covers the configuration, the tensor table and the sizes of the files completely,
and their content by samples: it tells two checkpoints apart, it does not prove integrity (that is
the SHA-256 of the whole file, checked when it was downloaded).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from tribody.loading.open_file import OpenFile

_SAMPLES_PER_FILE = 64
_SAMPLE_BYTES = 4096
# 64 pages of 4 KiB per file: 0.3 ms per file from the page cache, and every tensor of a small
# model is hit; a retrained checkpoint differs everywhere.


def fingerprint(
    config: Mapping[str, object], table: Iterable[tuple[object, ...]], files: Iterable[OpenFile]
) -> str:
    """Hex SHA-256 over the configuration, the rows of the tensor table and samples of the files.

    The paths of the files do not count: a copy has the fingerprint of its original.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for row in table:
        digest.update(repr(row).encode())
    for file in files:
        digest.update(file.size.to_bytes(8, "little"))
        last = max(file.size - _SAMPLE_BYTES, 0)
        starts = sorted({last * i // (_SAMPLES_PER_FILE - 1) for i in range(_SAMPLES_PER_FILE)})
        for start in starts:
            digest.update(file.read_bytes(start, min(_SAMPLE_BYTES, file.size - start)))
    return digest.hexdigest()
