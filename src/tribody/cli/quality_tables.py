"""The report of `tribody bench quality` as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tribody.cli.sizes import show_bytes
from tribody.quality.distribution import Distance
from tribody.quality.report import Report
from tribody.quality.tasks import OVERALL


def print_report(report: Report, console: Console) -> None:
    """Model, scores, flips, distances; each part only where it was measured."""
    console.print(f"[bold]Quality[/bold]  {report.model} ({report.model_type})", markup=True)
    console.out(
        f"  reference  {report.reference.name}, {show_bytes(report.reference.weight_bytes)}; "
        f"{report.isa}, {report.num_threads} threads"
    )
    for corpus in report.corpora:
        console.out(
            f"  {corpus.name:9}  {corpus.num_predicted_tokens} tokens in {corpus.num_chunks} "
            f"chunks of {corpus.source}"
        )
    held_out = report.held_out
    if held_out is None:
        console.out("  tasks      not asked: no held-out items (--held-out, --items)")
    elif held_out.skipped:
        console.out(f"  tasks      not asked: {held_out.skipped}")
    else:
        console.out(
            f"  tasks      {held_out.num_asked} of {held_out.num_items} items, greedy, at most "
            f"{report.max_answer_tokens} tokens an answer"
        )
    _print_scores(report, console)
    _print_flips(report, console)
    _print_distances(report, console)


def _print_scores(report: Report, console: Console) -> None:
    columns = [report.reference, *report.formats]
    if not report.reference.scores:
        return
    table = _table(console, "Exact match", "split", "task", "items", "float32", "95 %")
    for column in report.formats:
        table.add_column(column.name, justify="right")
    for row, first in enumerate(report.reference.scores):
        interval = first.exact_match_interval
        cells = [first.split, first.task, str(first.num_items), f"{first.exact_match:.1%}"]
        cells.append(f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]")
        cells += [f"{column.scores[row].exact_match:.1%}" for column in report.formats]
        table.add_row(*cells, style="bold" if first.task == OVERALL else None)
    console.print(table)
    for column in columns:
        totals = [score for score in column.scores if score.task == OVERALL]
        num_cut = sum(score.num_cut for score in totals)
        num_refused = sum(score.num_refused for score in totals)
        if num_cut or num_refused:
            console.out(
                f"  {column.name}: {num_cut} answers reached the token limit, {num_refused} "
                "prompts do not fit the context"
            )


def _print_flips(report: Report, console: Console) -> None:
    if not any(column.flips for column in report.formats):
        return
    head = ("format", "split", "to wrong", "to right", "points", "95 %", "p")
    table = _table(console, "Changed answers, against float32", *head)
    for column in report.formats:
        for flip in column.flips:
            interval = flip.exact_match_difference_interval
            table.add_row(
                column.name,
                flip.split,
                str(flip.correct_to_wrong),
                str(flip.wrong_to_correct),
                f"{100 * flip.exact_match_difference:+.2f}",
                f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]",
                f"{flip.mcnemar_p:.3g}",
            )
    console.print(table)


def _print_distances(report: Report, console: Console) -> None:
    for corpus in report.corpora:
        rows = [("noise floor", distance) for distance in report.noise_floor]
        rows += [(column.name, d) for column in report.formats for d in column.distribution]
        rows = [(name, distance) for name, distance in rows if distance.corpus == corpus.name]
        if not rows:
            continue
        perplexity = rows[-1][1].reference_perplexity
        title = (
            f"Distributions on {corpus.name}, against float32 (its perplexity: {perplexity:.4g})"
        )
        head = ("format", "ratio", "95 %", "KL mean", "99 %", "max", "top 1", "flips")
        table = _table(console, title, *head)
        for name, distance in rows:
            table.add_row(name, *_distance_cells(distance))
        console.print(table)
    if report.noise_floor:
        tokens = " and ".join(str(floor.num_predicted_tokens) for floor in report.noise_floor)
        console.out(
            "\n  ratio: of perplexities.  KL: nats a token.  flips: true tokens that were most\n"
            "  likely and are no longer, and the reverse.  noise floor: float32 again, by\n"
            f"  NumPy, on the first {tokens} tokens; smaller differences say nothing"
        )


def _distance_cells(distance: Distance) -> list[str]:
    interval = distance.perplexity_ratio_interval
    return [
        f"{distance.perplexity_ratio:.4f}",
        "" if interval is None else f"[{interval.low:.4f}, {interval.high:.4f}]",
        f"{distance.kl_mean_nats:.1e}",
        f"{distance.kl_p99_nats:.1e}",
        f"{distance.kl_max_nats:.1e}",
        f"{distance.top1_agreement:.2%}",
        f"{distance.correct_to_wrong}:{distance.wrong_to_correct}",
    ]


def _table(console: Console, title: str, *columns: str) -> Table:
    console.print(f"\n[bold]{title}[/bold]", markup=True)
    table = Table(box=None, pad_edge=False)
    for name in columns:
        left = name in ("format", "split", "task")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    return table
