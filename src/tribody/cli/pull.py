"""`tribody pull`: fetch models, print where they are (one path per line, for scripts)."""

from __future__ import annotations

import os
import sys

from tribody.cli.engine_options import DEFAULT_MODEL
from tribody.cli.environment import read_environment
from tribody.cli.models import fetch
from tribody.loading.bundled import BUNDLED
from tribody.loading.checkpoint import open_checkpoint


def run(models: list[str], *, verify: bool) -> None:
    """Raises: BadConfig, DownloadFailed; BadModel when `verify` finds what cannot be opened."""
    environment = read_environment(os.environ)
    for name in models or [environment.model or DEFAULT_MODEL]:
        path = fetch(name, environment, verify=verify)
        if verify:
            open_checkpoint(path).close()
        if name in BUNDLED:
            print(f"{name} ships with tribody; there is nothing to fetch", file=sys.stderr)
        print(path, flush=True)
