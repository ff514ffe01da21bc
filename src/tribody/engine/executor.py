"""The boundary between scheduling and computing: one step's plan in, its sampled tokens out."""

from __future__ import annotations

from typing import Protocol

from tribody.core.request import StepPlan, StepResult


class Executor(Protocol):
    """What carries out a plan; `ModelExecutor` with a model, `ScriptedExecutor` without."""

    def run(self, plan: StepPlan) -> StepResult:
        """Copy pages, compute every chunk and draw the plan's tokens, in the order of its slots.

        Slots behind a draft that turns out wrong are skipped.  Then the model's drafter runs, if
        the plan asks for it.
        A sequence whose logits are not numbers gets `SampledToken.error`; the others go on.
        Raises: EngineFailed when the step as a whole cannot be run; the engine then ends every
        request with that error and goes on.
        """
        ...
