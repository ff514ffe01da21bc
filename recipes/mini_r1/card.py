"""The model card: every figure from the evaluation, none typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipes.mini_r1.shape import Shape
from tribody.loading.download import sha256_of

TEMPLATE = Path(__file__).with_name("card.md")


def training(state: dict[str, Any], run: Path) -> dict[str, Any]:
    """How the run went, from its state and its run.json."""
    step, tokens, _pool, _position = state["at"]
    made: dict[str, Any] = json.loads((run / "run.json").read_text())
    plan = json.loads(state["plan"])
    return made | {"steps": step, "tokens": tokens, "seconds": state["seconds"], "plan": plan}


def _scores(report: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    rows = report["scores"]
    return {row["task"]: row for row in rows if row["split"] == split}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _score_table(figures: dict[str, Any], split: str) -> str:
    """One row a task: items, exact match and its interval in float32, then the formats."""
    float32 = _scores(figures["engine"]["reference"], split)
    columns = {
        "BF16 as w8g32": _scores(figures["engine"]["formats"][0], split),
        "FP8": _scores(figures["engine_fp8"]["reference"], split),
        "FP8 as w8g32": _scores(figures["engine_fp8"]["formats"][0], split),
    }
    lines = [
        f"| task | items | float32 | 95 % interval | {' | '.join(columns)} |",
        "|---|---|---|---|" + "---|" * len(columns),
    ]
    for task, row in float32.items():
        interval = row["exact_match_interval"]
        between = f"{_percent(interval['low'])} to {_percent(interval['high'])}"
        others = " | ".join(_percent(column[task]["exact_match"]) for column in columns.values())
        exact = _percent(row["exact_match"])
        lines.append(f"| {task} | {row['num_items']} | {exact} | {between} | {others} |")
    return "\n".join(lines)


def write(root: Path, figures: dict[str, Any], parameters: int) -> None:
    """root/MODEL_CARD.md."""
    run, loads, drafts = figures["training"], figures["expert_loads"], figures["drafts"]
    shape, plan = Shape(), run["plan"]
    files = "\n".join(
        f"| {path.relative_to(root)} | {path.stat().st_size:,} | `{sha256_of(path)}` |"
        for path in [*sorted(root.glob("*/model.safetensors")), root / "held_out.jsonl.gz"]
    )
    text = TEMPLATE.read_text("utf-8").format(
        shape=shape,
        run=run,
        plan=plan,
        drafted=drafts[0]["drafted"],
        further=", ".join(_percent(own["rate"]) for own in drafts[1:]),
        files=files,
        millions=parameters / 1e6,
        tokens=run["tokens"] / 1e6,
        minutes=run["seconds"] / 60,
        longest=plan["curriculum"][-1][1],
        held_out=_score_table(figures, "held_out"),
        longer=_score_table(figures, "longer"),
        least=_percent(loads["least"]),
        most=_percent(loads["most"]),
        rate=_percent(drafts[0]["rate"]),
    )
    (root / "MODEL_CARD.md").write_text(text, encoding="utf-8")
