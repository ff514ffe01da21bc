"""The command line: options and exit codes.  Each command's work is in the module of its name.

Only typer is imported here; a command imports what it needs when it runs, so that `--help` is
quick.  Exit codes: 0 done, 1 it failed, 2 it was asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tribody.cli.conformance import conformance
from tribody.cli.flags import (
    MODEL_HELP,
    Dtype,
    KeepPacked,
    KVMemory,
    MaxContext,
    MaxDrafts,
    Speculation,
    Thinking,
    Threads,
    Tuning,
    Url,
)
from tribody.cli.later import later
from tribody.cli.serve_options import serve
from tribody.cli.usage import invoice, margin, reconcile, usage
from tribody.core.errors import BadConfig, TribodyError

# No rich in help texts: they stay plain, quick and the same everywhere.
app = typer.Typer(
    name="tribody",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Serve DeepSeek-class models on the hardware you already own.",
    epilog="Models are names (mini-r1, smollm2), hf:ORG/NAME, modelscope:ORG/NAME, pypi:PACKAGE, "
    "a folder or a .gguf file. docs/environment.md lists the environment variables.",
)

bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench, name="bench", help="Measure a model on this machine.")
app.command()(serve)
app.command()(conformance)
for name, module, text in (
    ("tenants", "tenants", "Whoever pays: add, change, pause."),
    ("users", "tenants", "People at a tenant."),
    ("keys", "keys", "API keys: create, scope, revoke."),
    ("tariff", "tariff", "Price lists: check, use, ask."),
    ("ledger", "ledger", "Money: pay in, pay back, state, verify."),
):
    app.add_typer(later(f"tribody.cli.{module}", name), name=name, help=text)
for report in (usage, invoice, reconcile, margin):
    app.command()(report)


@app.command()
def chat(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this, print the answer, end.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 = always the likeliest.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
    thinking: Thinking = None,
    url: Url = None,
    dtype: Dtype = "auto",
    threads: Threads = None,
    max_context: MaxContext = None,
    tuning: Tuning = True,
    packed_cache: KeepPacked = True,
) -> None:
    """Talk with a model in the terminal: loaded here, or behind --url."""
    from tribody.cli import chat as command
    from tribody.cli.engine_options import EngineOptions

    options = command.ChatOptions(
        model=model,
        message=message,
        system=system,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
        thinking=thinking,
        url=url,
    )
    engine = EngineOptions(
        dtype=dtype,
        threads=threads,
        max_context=max_context,
        tuning=tuning,
        keep_packed=packed_cache,
    )
    command.run(options, engine)


@app.command()
def generate(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests, one per line.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Answers, appended.")],
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    temperature: Annotated[float | None, typer.Option(help="For lines that give none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="For lines that give none.")] = None,
    seed: Annotated[int | None, typer.Option(help="For lines that give none.")] = None,
    thinking: Thinking = None,
    dtype: Dtype = "auto",
    kv_memory: KVMemory = None,
    threads: Threads = None,
    max_context: MaxContext = None,
    max_running: Annotated[int, typer.Option(min=1, max=4096, help="Sequences in one step.")] = 64,
    speculation: Speculation = "auto",
    max_drafts: MaxDrafts = None,
    tuning: Tuning = True,
    packed_cache: KeepPacked = True,
) -> None:
    """Answer a JSONL file of prompts as one batch that resumes.

    Run it again to continue where it stopped.

    A line holds "prompt" or "messages", may hold an "id" (else its line number is the id) and any
    field of the completions or chat API.
    """
    from tribody.cli import generate as command
    from tribody.cli.answers import given_fields
    from tribody.cli.engine_options import EngineOptions

    engine = EngineOptions(
        dtype=dtype,
        kv_memory=kv_memory,
        threads=threads,
        max_context=max_context,
        max_running=max_running,
        speculation=speculation,
        max_drafts=max_drafts,
        tuning=tuning,
        keep_packed=packed_cache,
    )
    defaults = given_fields(
        temperature=temperature, max_tokens=max_tokens, seed=seed, thinking=thinking
    )
    raise typer.Exit(command.run(source, target, model, defaults, engine))


@app.command()
def pull(
    models: Annotated[list[str] | None, typer.Argument(help=MODEL_HELP)] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare every file with its SHA-256, then open the model."),
    ] = False,
) -> None:
    """Fetch models into the cache and print where they are."""
    from tribody.cli import pull as command

    command.run(models or [], verify=verify)


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="Model name, folder or .gguf file.")],
    out: Annotated[Path, typer.Option(help="The packed model, NAME.tribody; NAME.html beside it.")],
    budget: Annotated[
        str | None, typer.Option(help="Least share of the next tokens' probability, such as 99.5%.")
    ] = None,
    target_speed: Annotated[
        float | None, typer.Option(help="Least speed of decoding, as times of float16's: 3.2.")
    ] = None,
    bits: Annotated[
        float | None, typer.Option(help="Most bits per weight, such as 4.6, in place of both.")
    ] = None,
    formats: Annotated[
        str, typer.Option(help="To choose among; fp4g32 is the smallest.")
    ] = "w8g32,w6g32,w5m32,w4m32",
    text: Annotated[
        Path | None, typer.Option(help="Text to calibrate and verify on (default: fixed prose).")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=64, max=1_000_000, help="Tokens to calibrate on, and to verify on.")
    ] = 8192,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Choose formats that keep a model's accuracy or reach a speed."""
    from tribody.cli import quantize as command
    from tribody.cli.engine_options import EngineOptions

    options = command.QuantizeOptions(
        model=model,
        out=out,
        budget=budget,
        speed=target_speed,
        bits=bits,
        formats=formats,
        text=text,
        tokens=tokens,
        as_json=as_json,
    )
    raise typer.Exit(command.run(options, EngineOptions(threads=threads)))


@app.command()
def tune(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    goal: Annotated[
        str, typer.Option("--for", help="latency, prefill, both (of one stream) or throughput.")
    ] = "both",
    seconds: Annotated[
        float, typer.Option(min=10, max=86400, help="Time for all of it, loading included.")
    ] = 240.0,
    text: Annotated[
        Path | None, typer.Option(help="Text to go on from (default: questions, or tasks).")
    ] = None,
    dtype: Dtype = "auto",
    kv_memory: KVMemory = None,
    threads: Threads = None,
    speculation: Speculation = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Search for the settings under which a model is fastest on this machine.

    They are kept, and serve, chat, generate and bench use them; answers stay the same.
    """
    from tribody.cli import tune as command
    from tribody.cli.engine_options import EngineOptions

    options = command.TuneOptions(model, goal, seconds, text, as_json)
    engine = EngineOptions(
        dtype=dtype, kv_memory=kv_memory, threads=threads, speculation=speculation, tuning=False
    )
    command.run(options, engine)


@app.command()
def doctor(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Packed models besides those in the caches.")
    ] = None,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine can do, and why a running server is slow."""
    from tribody.cli import doctor as command

    command.run(files or [], url, as_json=as_json)


@bench.command()
def quality(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="A weight format or a .tribody file; /float32 or /float16 after it sets the KV "
            "cache. Repeatable (default: w8g32).",
        ),
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=0, help="Held-out items to ask (default: all; 0 = none).")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    tokens: Annotated[
        int, typer.Option(min=0, help="Most tokens to compare of each corpus; 0 = none.")
    ] = 32768,
    noise_tokens: Annotated[
        int, typer.Option(min=0, help="Of these, for the noise floor (slow); 0 = none.")
    ] = 2048,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a chunk of text (default: 512).")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text to compare on (default: prose fetched by pip).")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Held-out items, .jsonl.gz (default: those that ship).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the JSON report to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    kv_memory: KVMemory = None,
    threads: Threads = None,
    tuning: Tuning = True,
) -> None:
    """Measure what number formats cost a model.

    Each format against float32: held-out tasks answered, perplexity, KL divergence, top-1
    agreement, with 95 % intervals and the noise floor. docs/quality.md explains the figures.
    """
    from tribody.cli import bench as command
    from tribody.cli.engine_options import EngineOptions

    options = command.QualityOptions(
        model=model,
        formats=formats or [],
        items=items,
        max_tokens=max_tokens,
        tokens=tokens,
        noise_tokens=noise_tokens,
        context=context,
        text=text,
        held_out=held_out,
        out=out,
        as_json=as_json,
    )
    engine = EngineOptions(kv_memory=kv_memory, threads=threads, tuning=tuning)
    command.run_quality(options, engine)


@app.command()
def version() -> None:
    """Print the version."""
    import tribody

    typer.echo(f"tribody {tribody.__version__}")


def main() -> None:
    """The console script: run a command, turn our errors into one line and an exit code."""
    try:
        app()
    except BadConfig as error:
        typer.echo(f"tribody: {error}", err=True)
        sys.exit(2)
    except TribodyError as error:
        typer.echo(f"tribody: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); nothing is left to tell it.
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
