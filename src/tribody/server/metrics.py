"""The server's Prometheus metrics; docs/metrics.md explains each.

One registry per application, owned by the API process.  Request timings are observed here; what
only the engine knows (pages, queue) is read from its latest stats when a scrape comes.  Labels are
the model's id and small closed sets; never a tenant, a key or a path as the client sent it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tribody.core.metering import Counts
from tribody.server.errors import Refusal
from tribody.server.metering import Figures
from tribody.server.models_table import ModelsTable, ServedModel

# Decoding on a CPU is slow and queues are long: the buckets reach 2560 s, as vLLM's do.
SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0,
)  # fmt: skip
SECONDS_BETWEEN_TOKENS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0,
    2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
SECONDS_OF_COMMITS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
TOKENS = tuple(float(2**power) for power in range(21))  # 1 .. 1,048,576

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Everything that is counted; methods are cheap and never raise."""

    def __init__(self, models: ModelsTable) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(models))
        model = ("model_name",)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, model, registry=self.registry, buckets=buckets)

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        self._ttft = histogram(
            "tribody_time_to_first_token_seconds",
            "From the request's arrival to its first token.",
            SECONDS,
        )
        self._itl = histogram(
            "tribody_inter_token_latency_seconds",
            "Between two tokens of one choice.",
            SECONDS_BETWEEN_TOKENS,
        )
        self._e2e = histogram(
            "tribody_e2e_request_latency_seconds", "From the request's arrival to its end.", SECONDS
        )
        self._prompt = histogram(
            "tribody_request_prompt_tokens", "Prompt tokens per prompt.", TOKENS
        )
        self._finished = counter(
            "tribody_choices_finished", "Finished choices by reason.", ("model_name", "reason")
        )
        self._commits = Histogram(
            "tribody_ledger_commit_seconds",
            "From the first work of a commit to its being on the disk.",
            registry=self.registry,
            buckets=SECONDS_OF_COMMITS,
        )
        self._billed = counter(
            "tribody_billing_tokens", "Tokens of settled requests, however they ended.", ("kind",)
        )
        self._refused = counter(
            "tribody_auth_failures", "Requests that were not let in.", ("reason",)
        )
        for kind in ("prompt", "cached_prompt", "completion"):
            self._billed.labels(kind)
        for reason in get_args(Refusal):
            self._refused.labels(reason)
        self.ledger = LedgerCollector()
        self.registry.register(self.ledger)
        self._http = counter(
            "tribody_http_requests", "Answered HTTP requests.", ("route", "method", "status")
        )

    def first_token(self, model_id: str, seconds: float) -> None:
        self._ttft.labels(model_id).observe(seconds)

    def between_tokens(self, model_id: str, seconds: float, num_tokens: int) -> None:
        """`num_tokens` arrived together, `seconds` after the one before: each took its share."""
        share = seconds / num_tokens
        for _ in range(num_tokens):
            self._itl.labels(model_id).observe(share)

    def request_seconds(self, model_id: str, seconds: float) -> None:
        self._e2e.labels(model_id).observe(seconds)

    def prompt_tokens(self, model_id: str, num_tokens: int) -> None:
        self._prompt.labels(model_id).observe(num_tokens)

    def finished(self, model_id: str, reason: str, num_choices: int) -> None:
        self._finished.labels(model_id, reason).inc(num_choices)

    def http_request(self, route: str, method: str, status: int) -> None:
        shown = method if method in KNOWN_METHODS else "other"
        self._http.labels(route, shown, str(status)).inc()

    def ledger_commit(self, seconds: float) -> None:
        self._commits.observe(seconds)

    def settled(self, counts: Counts) -> None:
        self._billed.labels("prompt").inc(counts.prompt_tokens)
        self._billed.labels("cached_prompt").inc(counts.cached_tokens)
        self._billed.labels("completion").inc(counts.completion_tokens)

    def auth_failure(self, reason: Refusal) -> None:
        self._refused.labels(reason).inc()

    def exposition(self) -> bytes:
        """The text that a scrape gets."""
        return generate_latest(self.registry)


# (metric, help, field of EngineStats); gauges first, then counters that a restart sets to 0
GAUGES = (
    ("tribody_requests_running", "Sequences in the engine's current batch.", "running"),
    ("tribody_requests_waiting", "Requests in the engine's queue.", "waiting"),
    ("tribody_kv_pages_total", "Pages of the KV pool.", "pages_total"),
    ("tribody_kv_pages_used", "Pages that running sequences hold.", "pages_used"),
    ("tribody_kv_pages_cached", "Unused pages kept for prefix hits.", "pages_cached"),
    ("tribody_kv_pages_free", "Pages that hold nothing.", "pages_free"),
    ("tribody_step_seconds", "Duration of the engine's last step.", "step_seconds"),
)
COUNTERS = (
    ("tribody_prompt_tokens", "Prompt tokens admitted, cached ones included.", "prompt_tokens"),
    ("tribody_cached_prompt_tokens", "Prompt tokens found in the prefix cache.", "cached_tokens"),
    ("tribody_generation_tokens", "Tokens generated.", "generated_tokens"),
    ("tribody_preemptions", "Sequences put back into the queue for lack of pages.", "preemptions"),
    ("tribody_drafted_tokens", "Tokens that were drafted and checked.", "drafted_tokens"),
    ("tribody_accepted_tokens", "Drafted tokens that became part of an answer.", "accepted_tokens"),
    ("tribody_engine_steps", "Steps of the engine.", "steps"),
    ("tribody_engine_busy_seconds", "Time spent in steps.", "busy_seconds"),
)


class EngineCollector(Collector):
    """Reads every engine's latest stats at scrape time."""

    def __init__(self, models: ModelsTable) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        models = self._models.models
        for name, text, field in GAUGES:
            yield _family(GaugeMetricFamily(name, text, labels=["model_name"]), models, field)
        for name, text, field in COUNTERS:
            yield _family(CounterMetricFamily(name, text, labels=["model_name"]), models, field)
        restarts = CounterMetricFamily(
            "tribody_engine_restarts", "Times the engine was restarted.", labels=["model_name"]
        )
        ready = GaugeMetricFamily(
            "tribody_engine_ready", "1 while the engine takes requests.", labels=["model_name"]
        )
        info = GaugeMetricFamily(
            "tribody_engine_info",
            "Always 1; the labels say how the model runs.",
            labels=[
                "model_name",
                "weight_format",
                "kv_format",
                "isa",
                "num_threads",
                "speculation",
            ],
        )
        for model in models:
            facts = model.engine.info
            restarts.add_metric([model.model_id], model.engine.restarts)
            ready.add_metric([model.model_id], float(model.engine.ready))
            labels = [facts.weight_format, facts.kv_format, facts.isa, str(facts.num_threads)]
            info.add_metric([model.model_id, *labels, facts.speculation], 1.0)
        yield from (restarts, ready, info)

    def describe(self) -> Iterable[Metric]:
        return ()


class LedgerCollector(Collector):
    """What was last read of the ledger; nothing where there is none, or while it cannot be read."""

    def __init__(self) -> None:
        self.figures: Figures | None = None

    def collect(self) -> Iterable[Metric]:
        if self.figures is None:
            return
        yield GaugeMetricFamily(
            "tribody_ledger_unsettled_reservations",
            "Requests that money is held for.",
            value=self.figures.unsettled,
        )
        yield GaugeMetricFamily(
            "tribody_accounts_age_seconds",
            "Since the database was last asked for changed accounts.",
            value=self.figures.directory_age_seconds,
        )
        imbalance = GaugeMetricFamily(
            "tribody_ledger_imbalance",
            "What all accounts of a currency come to, in micro-units; not 0 is an error.",
            labels=["currency"],
        )
        for currency, micro in self.figures.imbalance.items():
            imbalance.add_metric([currency], micro)
        yield imbalance

    def describe(self) -> Iterable[Metric]:
        return ()


def _family(
    family: GaugeMetricFamily | CounterMetricFamily, models: list[ServedModel], field: str
) -> Metric:
    for model in models:
        family.add_metric([model.model_id], getattr(model.engine.stats, field))
    return family
