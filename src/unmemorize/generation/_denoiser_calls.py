"""The calls of a denoiser while a pipeline runs: which rows are whose, and what goes in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.generation._interventions import Drawing
from unmemorize.pipelines import DenoiserCall, Model, denoiser_call, uncompiled, without_text


@dataclass(eq=False)
class DrawingCall(DenoiserCall):
    """A call of the denoiser that holds images of a drawing.

    Args:
        arguments, sample_name: see `DenoiserCall`.
        step: which denoising step it belongs to, from 0.
        timestep: of the scheduler, as a number; the largest comes first.
        rows: the rows of the batch that hold the images of the drawing with their prompts.
        unconditional: the rows that hold the same images without text; empty if there are none.
        whole: the rows of all images of the batch with their prompts.
    """

    step: int
    timestep: float
    rows: list[int]
    unconditional: list[int]
    whole: list[int]


Reads = Callable[[DrawingCall], None]
"""Sees a call before the denoiser does, and may change its arguments."""
Returns = Callable[[DrawingCall, Tensor], Tensor]
"""Turns the denoiser's output into another one, of the same shape."""


class Calls:
    """Follows the calls of a denoiser.

    A row holds a prompt if its text is nearer to that of the encoded prompt than to that of the
    empty prompt. So nothing depends on the order of halves, or on whether guidance takes one call
    or two.
    """

    current: DrawingCall | None = None
    """The call in progress; None outside of calls, or in one without a row of the drawing."""

    def __init__(
        self, model: Model, drawing: Drawing, reads: Reads | None, returns: Returns | None
    ) -> None:
        self._model, self._drawing = model, drawing
        self._reads, self._returns = reads, returns
        self._text = model.encode(drawing.prompts).text.float()  # (images, tokens, features)
        self._empty = without_text(model).text.float()
        self._own = [index for index, row in enumerate(drawing.rows) if row]
        self._step, self._time = -1, float("nan")

    def before(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note a call. A forward pre-hook."""
        call = denoiser_call(denoiser, args, kwargs)
        self.current = self._of_drawing(call)
        if self.current is not None and self._reads is not None:
            self._reads(self.current)
        return (), call.arguments

    def after(
        self, _denoiser: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Note what a call returns. A forward hook."""
        call, self.current = self.current, None
        if call is None or self._returns is None:
            return output
        changed = self._returns(call, output[0])
        if isinstance(output, tuple):
            return (changed, *output[1:])
        return type(output)(changed)

    def _of_drawing(self, call: DenoiserCall) -> DrawingCall | None:
        count = len(self._drawing.rows)
        copies, rest = divmod(call.size, count)
        if rest:
            raise ModelError(
                f"{count} samples do not fit a batch of {call.size}. "
                "Draw with a pipeline that passes each image once with its text and once without."
            )
        time = call.received_time / self._model.layout.scale
        if time != self._time:
            self._step, self._time = self._step + 1, time
        rows: list[int] = []
        whole: list[int] = []
        unconditional: list[int] = []
        for copy in range(copies):
            own = [copy * count + index for index in self._own]
            if self._has_prompts(call.text[own]):
                rows += own
                whole += range(copy * count, (copy + 1) * count)
            else:
                unconditional += own
        if not rows:
            return None
        return DrawingCall(
            call.arguments, call.sample_name, self._step, time, rows, unconditional, whole
        )

    def _has_prompts(self, text: Tensor) -> bool:
        if text.shape != self._text.shape:
            return False
        if self._empty.shape[1:] != self._text.shape[1:]:
            return True
        text = text.float()
        return bool((text - self._text).norm() <= (text - self._empty).norm())


@contextmanager
def watching(
    model: Model,
    drawing: Drawing,
    reads: Reads | None = None,
    returns: Returns | None = None,
) -> Iterator[Calls]:
    """Watch the calls of the denoiser while the context lasts, and change what goes in and out.

    Args:
        model: the model.
        drawing: whose rows count.
        reads: called before each call that holds these images with their prompts.
        returns: called after each of them.
    """
    calls = Calls(model, drawing, reads, returns)
    with ExitStack() as stack:
        stack.enter_context(uncompiled(model.pipe))
        denoiser = model.denoiser
        stack.callback(denoiser.register_forward_pre_hook(calls.before, with_kwargs=True).remove)
        stack.callback(denoiser.register_forward_hook(calls.after, with_kwargs=True).remove)
        yield calls
