"""Why a running server is slow: its own metrics, read and put into words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tribody.cli.http_client import base_url, get
from tribody.core.engine_info import WeightPrecision
from tribody.core.errors import EngineFailed

KV_FULL = 0.9  # above this share, the next long request waits or preempts
LOW_HIT_RATE = 0.2
MANY_PROMPT_TOKENS = 10_000  # below this a hit rate says nothing

Values = Mapping[str, float]  # one model's samples by name


class _Version(msgspec.Struct):
    version: str


class _Card(msgspec.Struct):
    id: str
    precision: WeightPrecision | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class ModelReport(msgspec.Struct, frozen=True):
    """One served model's state, and what stands in its way."""

    model_name: str
    running: float
    waiting: float
    kv_used: float  # 0..1
    cache_hit_rate: float  # 0..1, of prompt tokens since the engine started
    preemptions: float
    drafted_tokens: float
    accepted_tokens: float
    mean_first_token_seconds: float | None
    mean_inter_token_seconds: float | None
    findings: list[str]
    precision: WeightPrecision | None = None


class ServerReport(msgspec.Struct, frozen=True):
    url: str
    version: str
    models: list[ModelReport]


def look_at_server(url: str, key: str | None) -> ServerReport:
    """Raises: NoServer, BadRequest (a key is needed), EngineFailed (it is not a tribody)."""
    base = base_url(url)
    text = get(f"{base}/metrics", key)
    try:
        version = msgspec.json.decode(get(f"{base}/version", key), type=_Version).version
        by_model = read_metrics(text.decode())
        cards = msgspec.json.decode(get(f"{base}/v1/models", key), type=_Cards).data
    except (msgspec.MsgspecError, ValueError) as error:
        raise EngineFailed(f"{base} answers, but not as tribody does") from error
    precisions = {card.id: card.precision for card in cards}
    models = [report(name, v, precisions.get(name)) for name, v in by_model.items()]
    return ServerReport(base, version, models)


def read_metrics(text: str) -> dict[str, Values]:
    """Samples of tribody's metrics, by model and name; labelled ones beyond the model are left."""
    by_model: dict[str, dict[str, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("tribody_") and set(sample.labels) == {"model_name"}:
                by_model[sample.labels["model_name"]][sample.name] = sample.value
    return dict(by_model)


def report(
    model_name: str, values: Values, precision: WeightPrecision | None = None
) -> ModelReport:
    def value(name: str) -> float:
        return values.get(f"tribody_{name}", 0.0)

    return ModelReport(
        model_name=model_name,
        running=value("requests_running"),
        waiting=value("requests_waiting"),
        kv_used=_ratio(value("kv_pages_used"), value("kv_pages_total")) or 0.0,
        cache_hit_rate=_ratio(value("cached_prompt_tokens_total"), value("prompt_tokens_total"))
        or 0.0,
        preemptions=value("preemptions_total"),
        drafted_tokens=value("drafted_tokens_total"),
        accepted_tokens=value("accepted_tokens_total"),
        mean_first_token_seconds=_mean(values, "time_to_first_token_seconds"),
        mean_inter_token_seconds=_mean(values, "inter_token_latency_seconds"),
        findings=findings(values),
        precision=precision,
    )


def findings(values: Values) -> list[str]:
    """What slows the server down, worst first, each with its remedy."""

    def value(name: str) -> float:
        return values.get(f"tribody_{name}", 0.0)

    found = []
    if not values.get("tribody_engine_ready", 1.0):
        found.append("the engine is down or restarting: requests wait; see the server's log")
    if value("engine_restarts_total"):
        found.append(
            f"the engine was restarted {value('engine_restarts_total'):.0f} times: "
            "each cost a load and a replay; see the server's log"
        )
    kv_used = _ratio(value("kv_pages_used"), value("kv_pages_total")) or 0.0
    if value("requests_waiting"):
        cause = (
            "the KV memory is full: raise --kv-memory or lower --max-context"
            if kv_used >= KV_FULL
            else "more arrives than this machine computes, or --max-running is reached"
        )
        found.append(f"{value('requests_waiting'):.0f} requests wait in the queue: {cause}")
    elif kv_used >= KV_FULL:
        found.append(f"{kv_used:.0%} of the KV memory is in use: raise --kv-memory")
    if value("preemptions_total"):
        found.append(
            f"{value('preemptions_total'):.0f} sequences were preempted and computed again: "
            "the KV memory is too small for the load; raise --kv-memory or lower --max-running"
        )
    prompt_tokens = value("prompt_tokens_total")
    hit_rate = _ratio(value("cached_prompt_tokens_total"), prompt_tokens)
    if hit_rate is not None and prompt_tokens >= MANY_PROMPT_TOKENS and hit_rate < LOW_HIT_RATE:
        found.append(
            f"only {hit_rate:.0%} of prompt tokens came from the prefix cache: keep what changes "
            "(dates, ids) at the end of the prompt"
        )
    return found


def _mean(values: Values, name: str) -> float | None:
    total = values.get(f"tribody_{name}_sum", 0.0)
    return _ratio(total, values.get(f"tribody_{name}_count", 0.0))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
