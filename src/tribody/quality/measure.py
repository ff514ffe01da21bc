"""The whole measurement of one model: which models are loaded when, and the report.

The float32 reference stays loaded; beside it at most one more: the noise floor's, then each
format's in turn.  Memory is therefore that of float32 weights and one more set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tribody.core.config import EngineConfig
from tribody.core.errors import BadConfig
from tribody.core.version import VERSION
from tribody.loading.download import sha256_of
from tribody.quality.answers import Answer, answer_items, template_of
from tribody.quality.chunks import Chunk, task_chunks, text_chunks
from tribody.quality.distribution import Distance, compare
from tribody.quality.held_out import Item, choose, read_items
from tribody.quality.logits import REFERENCE, Backend, LoadedModel, Precision
from tribody.quality.progress import Watcher
from tribody.quality.prose import Text
from tribody.quality.report import Corpus, FormatReport, HeldOut, Report
from tribody.quality.tasks import Flips, TaskScore, flips, scores
from tribody.text.chat_template import ChatTemplate

DEFAULT_CONTEXT = 512  # tokens of a chunk of text; what most perplexities are published at


@dataclass(frozen=True)
class Settings:
    """What to measure.  None where a part is left out."""

    formats: Sequence[Precision]
    held_out: Path | None
    max_items: int  # 0 = all
    max_answer_tokens: int
    text: Text | None
    max_corpus_tokens: int  # of each corpus; 0 = no distributions
    max_noise_tokens: int  # of each corpus, by NumPy; 0 = no noise floor
    context_tokens: int | None  # None = DEFAULT_CONTEXT or the model's context, if that is less


@dataclass(frozen=True)
class _Work:
    """What every model is run on."""

    items: list[Item]
    template: ChatTemplate | None
    corpora: dict[str, list[Chunk]]


class Measurement:
    """One run of everything that the settings ask for."""

    def __init__(self, config: EngineConfig, settings: Settings, watcher: Watcher) -> None:
        self._config = config
        self._settings = settings
        self._watcher = watcher
        # Read before anything is loaded: a bad file must not cost minutes.
        self._all_items = [] if settings.held_out is None else read_items(settings.held_out)

    def run(self) -> Report:
        """Raises: BadConfig, BadModel, EngineFailed."""
        reference = self._load(REFERENCE)
        work = self._work(reference)
        expected = self._answers(reference, work)
        noise = self._noise(reference, work)
        formats = [
            self._format(precision, reference, expected, work)
            for precision in self._settings.formats
        ]
        info = reference.built.info
        return Report(
            tribody_version=VERSION,
            model=info.model_id,
            model_type=info.model_type,
            isa=info.isa,
            num_threads=info.num_threads,
            context_tokens=self._context(reference),
            max_answer_tokens=self._settings.max_answer_tokens,
            held_out=self._held_out(work),
            corpora=[self._corpus(name, chunks) for name, chunks in work.corpora.items()],
            reference=_format_report(reference, scores(work.items, expected), [], []),
            noise_floor=noise,
            formats=formats,
        )

    def _load(self, precision: Precision, backend: Backend = "native") -> LoadedModel:
        done = 0

        def advance(done_bytes: int, total_bytes: int) -> None:
            nonlocal done
            if done == 0:
                self._watcher.begin(f"{precision.name}: loading", total_bytes)
            self._watcher.advance(done_bytes - done)
            done = done_bytes

        return LoadedModel(self._config, precision, backend, advance)

    def _work(self, reference: LoadedModel) -> _Work:
        settings = self._settings
        template = template_of(reference) if self._all_items else None
        items = choose(self._all_items, settings.max_items or len(self._all_items))
        corpora: dict[str, list[Chunk]] = {}
        if settings.text is not None and settings.max_corpus_tokens:
            corpora["text"] = text_chunks(
                reference,
                settings.text.text,
                self._context(reference),
                settings.max_corpus_tokens,
            )
        if template is not None and settings.max_corpus_tokens:
            chunks = task_chunks(reference, template, items, settings.max_corpus_tokens)
            if chunks:
                corpora["tasks"] = chunks
        return _Work(items if template is not None else [], template, corpora)

    def _context(self, model: LoadedModel) -> int:
        most = model.built.info.max_context_tokens
        wanted = self._settings.context_tokens
        if wanted is not None and wanted > most:
            raise BadConfig(f"--context {wanted}: this model's context is {most}; ask for less")
        return wanted or min(DEFAULT_CONTEXT, most)

    def _answers(self, model: LoadedModel, work: _Work) -> list[Answer]:
        if work.template is None or not work.items:
            return []
        self._watcher.begin(f"{model.precision.name}: answering", len(work.items))
        limit = self._settings.max_answer_tokens
        return answer_items(model, work.template, work.items, limit, self._watcher)

    def _noise(self, reference: LoadedModel, work: _Work) -> list[Distance]:
        limit = self._settings.max_noise_tokens
        if not limit or not work.corpora:
            return []
        again = self._load(REFERENCE, "reference")
        few = {name: _first(chunks, limit) for name, chunks in work.corpora.items()}
        return self._distances("noise floor", reference, again, few)

    def _format(
        self,
        precision: Precision,
        reference: LoadedModel,
        expected: Sequence[Answer],
        work: _Work,
    ) -> FormatReport:
        model = self._load(precision)
        answers = self._answers(model, work)
        return _format_report(
            model,
            scores(work.items, answers),
            flips(work.items, expected, answers),
            self._distances(precision.name, reference, model, work.corpora),
        )

    def _distances(
        self,
        name: str,
        reference: LoadedModel,
        other: LoadedModel,
        corpora: dict[str, list[Chunk]],
    ) -> list[Distance]:
        found = []
        for corpus, chunks in corpora.items():
            total = sum(chunk.num_predicted for chunk in chunks)
            self._watcher.begin(f"{name}: comparing {corpus}", total)
            found.append(compare(reference, other, corpus, chunks, self._watcher))
        return found

    def _held_out(self, work: _Work) -> HeldOut | None:
        path = self._settings.held_out
        if path is None:
            return None
        skipped = None if work.template is not None else "the model has no chat template"
        return HeldOut(
            path=str(path),
            sha256=sha256_of(path),
            num_items=len(self._all_items),
            num_asked=len(work.items),
            skipped=skipped,
        )

    def _corpus(self, name: str, chunks: list[Chunk]) -> Corpus:
        settings = self._settings
        if name == "text":
            assert settings.text is not None
            source, digest = settings.text.source, settings.text.sha256
        else:
            assert settings.held_out is not None
            source, digest = str(settings.held_out), sha256_of(settings.held_out)
        return Corpus(
            name=name,
            source=source,
            sha256=digest,
            num_chunks=len(chunks),
            num_predicted_tokens=sum(chunk.num_predicted for chunk in chunks),
        )


def _first(chunks: list[Chunk], max_tokens: int) -> list[Chunk]:
    """Leading chunks of `max_tokens` tokens in all; at least one."""
    kept: list[Chunk] = []
    for chunk in chunks:
        max_tokens -= len(chunk.token_ids)
        if kept and max_tokens < 0:
            break
        kept.append(chunk)
    return kept


def _format_report(
    model: LoadedModel,
    task_scores: list[TaskScore],
    task_flips: list[Flips],
    distribution: list[Distance],
) -> FormatReport:
    return FormatReport(
        name=model.precision.name,
        weight_format=model.precision.weights if model.precision.packed is None else "packed",
        kv_format=model.precision.kv,
        weight_bytes=model.built.info.weight_bytes,
        scores=task_scores,
        flips=task_flips,
        distribution=distribution,
    )
