"""A guard: it stops copies of training images while a pipeline draws them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import AlarmError, ModelError
from unmemorize._files import type_in_words
from unmemorize.generation import Edit, NeuronEdit
from unmemorize.guarding._guided_step import GuidedStep
from unmemorize.guarding._kept import default_guard_threshold
from unmemorize.guarding._latents import changed_latents, redrawn_signs
from unmemorize.guarding._threshold import GuardThreshold
from unmemorize.guarding._watch import refuse_watched, watching
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model

_logger = logging.getLogger("unmemorize")

Outcome = Literal["stopped", "redrawn", "edited", "reported"]


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """An image whose noise the text turns into what looks like a copy.

    Args:
        image: its place among the images of its call, from 0.
        score: how much the text changes what is made of its noise; above ``tau``.
        tau: the level of the guard.
        outcome: what became of it.
        final_score: the score after the last redraw or with the edit; the same score where nothing
            was computed again.
    """

    image: int
    score: float
    tau: float
    outcome: Outcome
    final_score: float


OnAlarm = Literal["stop", "redraw"] | Neurons | Edit | Callable[[Alarm], object]
"""What a guard does about an image, see `guard`."""


@dataclass
class Guard:
    """What a guard has seen.

    Args:
        threshold: its level.
        images: how many images it has judged.
        alarms: those that looked like copies, in order.
    """

    threshold: GuardThreshold
    images: int = 0
    alarms: list[Alarm] = field(default_factory=list)


@contextmanager
def guard(
    pipe: DiffusionPipeline | Model,
    threshold: GuardThreshold | None = None,
    *,
    on_alarm: OnAlarm = "stop",
    redraws: int = 3,
) -> Iterator[Guard]:
    """Watch every call of a pipeline, and act on images that look like copies of training images.

    In the first denoising step of a call with classifier-free guidance, a guard has the denoiser
    predict once more from the initial noise, with the text and without it, at a later timestep. It
    measures how far the two are apart, for each image. That costs two denoiser samples per image,
    or three with a negative prompt, where 50 steps take 100. It works for calls of the pipeline and
    for `generate`. On leaving, even by an exception, the pipeline is as before.

    Args:
        pipe: a loaded pipeline.
        threshold: the level above which an image raises an alarm, see `calibrate_guard`. By default
            one over ordinary captions that bounds false alarms at 1 % of images, which is made once
            and kept, see `default_guard_threshold`.
        on_alarm: what is done about an image. "stop" ends the call with `AlarmError` if all of its
            images raise an alarm; otherwise these come out flat and grey, and the others are drawn.
            "redraw" gives the image other initial noise. Neurons are switched off for this image,
            or an edit is applied to it, until its call ends. An image that still is above the
            level is stopped. A function is called with the `Alarm`, and the image is drawn unless
            the function raises.
        redraws: how often other noise is tried before the image is stopped.

    Yields:
        The guard, which counts images and holds the alarms.

    Raises:
        ModelError: the pipeline has no classifier-free guidance or another guard already, a call
            does not use guidance or begins with an image, or it has a negative prompt where
            guidance takes two calls of the denoiser.
        ThresholdError: the threshold belongs to another model, or a call has another size.
        NeuronError, EditError: the neurons or the edit do not fit the model.
        AlarmError: all images of a call were stopped.

    Source: the norm is that of Wen et al., ICLR 2024; the later timestep is ours, see
    `LateNoiseMagnitude`.

    Examples:
        >>> from unmemorize import calibrate_guard, load_pipeline, testbed
        >>> pipe = load_pipeline("testbed")
        >>> captions = testbed.captions("calibration")[:9]
        >>> threshold = calibrate_guard(pipe, captions)
        >>> with guard(pipe, threshold, on_alarm="redraw") as watched:
        ...     image = pipe(captions[0], num_inference_steps=2).images[0]
        >>> watched.images, watched.alarms
        (1, [])
    """
    model = Model.of(pipe)
    refuse_watched(model)  # before a threshold is made
    threshold = default_guard_threshold(model) if threshold is None else threshold
    threshold.check(model)
    judge = _GuardJudge(model, Guard(threshold), on_alarm, redraws)
    try:
        with watching(model, judge):
            yield judge.guard
    finally:
        judge.begin()
        model.pipe.maybe_free_model_hooks()  # a stopped call leaves its models on the device


def _outcome_of(action: object) -> Outcome:
    """Return what becomes of an image that an action saves.

    Raises:
        ModelError: the action is unknown.
    """
    if action == "stop":
        return "stopped"
    if action == "redraw":
        return "redrawn"
    if hasattr(action, "applied"):
        return "edited"
    if callable(action):
        return "reported"
    raise ModelError(
        f"on_alarm={action!r:.60}: {type_in_words(action)}. Use stop or redraw, or give Neurons, "
        "an edit or a function."
    )


def _refuse_start_within(model: Model, timestep: float) -> None:
    """Refuse a call that begins with a noisy image, whose noise says nothing of the text.

    Args:
        model: the model.
        timestep: at which the call begins, as the denoiser receives it.

    Raises:
        ModelError: it is not the first timestep of the pipeline's scheduler.
    """
    first = float(model.pipe.scheduler.timesteps[0]) * model.layout.scale
    if not math.isclose(timestep, first, rel_tol=0.01):
        raise ModelError(
            f"this call begins at timestep {timestep:g}, but the first one of its sampler is "
            f"{first:g}, so it does not begin with pure noise. A guard judges calls that make an "
            "image from text alone."
        )


class _GuardJudge:
    """Judges the first steps of calls, and changes what the calls do."""

    def __init__(self, model: Model, guard: Guard, on_alarm: OnAlarm, redraws: int) -> None:
        self.guard = guard
        self._model, self._redraws = model, redraws
        action: Any = NeuronEdit(on_alarm) if isinstance(on_alarm, Neurons) else on_alarm
        self._action = action
        self._outcome = _outcome_of(self._action)
        self._changes = ExitStack()
        """What is changed until the call ends."""
        if self._outcome == "edited":
            with self._action.applied(model, [True]):
                pass  # checks the edit, and solves now what would call the pipeline within a call

    def begin(self) -> None:
        """See `Judge`."""
        self._changes.close()

    def judge(self, step: GuidedStep) -> None:
        """See `Judge`."""
        threshold = self.guard.threshold
        _refuse_start_within(self._model, step.timestep)
        threshold.check_shape(step.shape)
        scores = self._scores(step)
        self.guard.images += step.images
        rows = [row for row, score in enumerate(scores) if score > threshold.tau]
        if rows:
            self._act(step, rows, scores)

    def _act(self, step: GuidedStep, rows: Sequence[int], scores: Sequence[float]) -> None:
        """Do what the guard is for, and put it on record."""
        signs, final, outcome = None, scores, self._outcome
        if outcome == "redrawn":
            signs, final = self._redraw(step, rows, scores)
        elif outcome == "edited":
            is_row = [row in rows for row in range(step.images)]
            self._changes.enter_context(self._action.applied(self._model, is_row))
            step.repeat()
            final = self._scores(step)
        tau = self.guard.threshold.tau
        stopped = [row for row in rows if final[row] > tau and outcome != "reported"]
        alarms = [
            Alarm(
                image=row,
                score=scores[row],
                tau=tau,
                outcome="stopped" if row in stopped else outcome,
                final_score=final[row],
            )
            for row in rows
        ]
        self.guard.alarms += alarms
        if outcome == "reported":
            for alarm in alarms:
                self._action(alarm)
            return
        if stopped:
            message = (
                f"{len(stopped)} of {step.images} images of a call look like copies of training "
                f"images (scores up to {max(final[row] for row in stopped):.3g}, above "
                f"{tau:.3g}) and were stopped."
            )
            if len(stopped) == step.images:
                raise AlarmError(
                    f"{message} Use another prompt, or let the guard try other noise or switch "
                    "neurons off (on_alarm)."
                )
            _logger.warning("%s They are flat and grey: number %s", message, stopped)
        if signs is not None or stopped:
            change = changed_latents(self._model.pipe.scheduler, signs, stopped)
            self._changes.enter_context(change)

    def _redraw(
        self, step: GuidedStep, rows: Sequence[int], scores: Sequence[float]
    ) -> tuple[Tensor | None, Sequence[float]]:
        """Give images other noise until all are below the level.

        Returns:
            The signs that make the last noise of the first, and the scores under it.
        """
        total: Tensor | None = None
        for attempt in range(self._redraws):
            above = [row for row in rows if scores[row] > self.guard.threshold.tau]
            if not above:
                break
            signs = redrawn_signs(step.noise, above, attempt)
            step.repeat(signs)
            total = signs if total is None else total * signs
            scores = self._scores(step)
        return total, scores

    def _scores(self, step: GuidedStep) -> list[float]:
        return step.scores(self._model, self.guard.threshold.timestep)
