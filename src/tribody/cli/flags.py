"""Options that several commands share, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Api = Annotated[
    str, typer.Option(help="How answers look, as OPTION=VALUE,…: profile=2025 errors=openai …")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Uploaded files and batches (default: data, beside fetched models)."),
]
Host = Annotated[str | None, typer.Option(help="Address (default: 127.0.0.1; others need keys).")]
MODEL_HELP = "Model name, folder or .gguf file (default: mini-r1)."
Dtype = Annotated[
    str,
    typer.Option(
        help="Weights at run time: a format (docs/formats.md), stored (as the checkpoint has them) "
        "or auto (w8g32)."
    ),
]
KVMemory = Annotated[
    str | None, typer.Option(help="KV cache, such as 2GiB (default: a share of free memory).")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads (default: physical cores).")
]
MaxContext = Annotated[
    str | None, typer.Option(help="Longest prompt + answer, such as 8K (default: the model's).")
]
Speculation = Annotated[
    str, typer.Option(help="Draft tokens where it pays: auto, mtp, ngram or off.")
]
MaxDrafts = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Most tokens drafted for one sequence in one step."),
]
Tuning = Annotated[
    bool, typer.Option("--tuning/--no-tuning", help="Use what `tribody tune` found, if it was run.")
]
KeepPacked = Annotated[
    bool,
    typer.Option(
        "--packed-cache/--no-packed-cache", help="Keep encoded weights for the next start."
    ),
]
Thinking = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="Think first or not (default: the model's way)."),
]
Database = Annotated[
    str | None,
    typer.Option(help="postgresql://…, in place of accounts.db in the data folder."),
]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
Url = Annotated[
    str | None, typer.Option(help="Use a running server, such as http://127.0.0.1:8000.")
]
