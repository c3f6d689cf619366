"""Watch the denoiser of a live pipeline and hand over the first step of every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import nn

from unmemorize._errors import ModelError
from unmemorize.guarding._guided_step import GuidedStep, RepeatableCall, guided_step, unguided
from unmemorize.pipelines import (
    DenoiserCall,
    GuidedCalls,
    Model,
    denoiser_call,
    denoiser_of,
    guided_calls,
    keeping_processors,
    processors_of,
    put_back_processors,
    uncompiled,
)


class Judge(Protocol):
    """Learns of every call of a pipeline. Either method may raise to end the call."""

    def begin(self) -> None:
        """Prepare for a call, before its denoiser runs."""
        ...

    def judge(self, step: GuidedStep) -> None:
        """Judge the first step of a call."""
        ...


@contextmanager
def watching(model: Model, judge: Judge) -> Iterator[None]:
    """Hand the first guided step of every call of the pipeline to a judge.

    Hooks on the denoiser watch, so the pipeline runs as usual. Compiled denoisers run uncompiled
    meanwhile, because they ignore hooks.

    Raises:
        ModelError: the pipeline has no classifier-free guidance, or a call does not use it, or it
            is watched already.
    """
    refuse_watched(model)
    watch = _Watch(model.pipe, guided_calls(model), judge)
    _ = model.layout  # observed before any call, since it runs the pipeline
    denoiser = model.denoiser
    with ExitStack() as stack:
        stack.enter_context(uncompiled(model.pipe))
        stack.enter_context(keeping_processors(denoiser))  # ending a call would leave PAG's
        before = denoiser.register_forward_pre_hook(watch.before, with_kwargs=True)
        stack.callback(before.remove)
        stack.callback(denoiser.register_forward_hook(watch.after).remove)
        yield
        watch.finish()


def refuse_watched(model: Model) -> None:
    """Refuse a pipeline that a guard watches, which would take what another one computes for calls.

    Raises:
        ModelError: a guard does.
    """
    hooks = model.denoiser._forward_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), _Watch) for hook in hooks):
        raise ModelError(
            "a guard already watches this pipeline. Leave its context before another guard begins "
            "or is calibrated."
        )


class _Watch:
    """Hooks of a denoiser that find the first step of each call of a pipeline.

    Each call gives its scheduler new timesteps, wherever the call before it ended. Timesteps fall
    within a call, so one as high as the first shows a call whose scheduler is not the pipeline's.
    """

    def __init__(self, pipe: Any, guided: GuidedCalls, judge: Judge) -> None:
        self._pipe, self._guided, self._judge = pipe, guided, judge
        self._judged: Any = None
        """The timesteps of the last call whose first step was judged."""
        self._first = self._last = float("-inf")
        self._calls: list[RepeatableCall] = []
        """The calls of a first step that is not complete yet."""
        self._is_judging = False
        self._processors = processors_of(denoiser_of(pipe))

    def before(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Recognize a call of the first step, before the denoiser runs."""
        if not self._is_judging:
            with self._may_end(denoiser):
                self._recognize(denoiser, denoiser_call(denoiser, args, kwargs))

    def _recognize(self, denoiser: nn.Module, call: DenoiserCall) -> None:
        timestep = call.received_time
        if not self._continues_step(call):
            self.finish()
        if self._calls:
            self._calls.append(RepeatableCall(denoiser, call))
        elif (
            self._judged is not self._pipe.scheduler.timesteps
            or timestep > self._last
            or timestep == self._first
        ):
            self._judged = None
            self._first = timestep
            self._judge.begin()
            self._calls = [RepeatableCall(denoiser, call)]
        self._last = timestep

    def _continues_step(self, call: DenoiserCall) -> bool:
        """Whether a call is a further one of the same step, for the same samples."""
        if not self._calls or not self._calls[-1].is_complete:  # a denoiser may be interrupted
            return False
        return call.sample is self._calls[0].call.sample

    def after(self, denoiser: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Judge the first step as soon as it is complete."""
        if self._calls and not self._is_judging:
            with self._may_end(denoiser):
                self._judge_output(output)

    def _judge_output(self, output: Any) -> None:
        calls, self._calls = self._calls, []
        calls[-1].output = output[0]
        guides = bool(getattr(self._pipe, "do_classifier_free_guidance", True))
        step = guided_step(self._guided, calls, may_be_negative=guides)
        if step is None:
            self._calls = calls
            return
        self._is_judging = True
        try:
            self._judge.judge(step)
        finally:
            self._is_judging = False
        self._judged = self._pipe.scheduler.timesteps  # never of a call that judging has ended

    @contextmanager
    def _may_end(self, denoiser: nn.Module) -> Iterator[None]:
        """Put back the attention processors of PAG if the pipeline's call ends here."""
        try:
            yield
        except BaseException:
            put_back_processors(denoiser, self._processors)
            raise

    def finish(self) -> None:
        """Refuse a call that never computed a prediction without text.

        Raises:
            ModelError: there is one, which did not end within its denoiser.
        """
        calls, self._calls = self._calls, []
        if calls and calls[-1].is_complete:
            raise unguided()
