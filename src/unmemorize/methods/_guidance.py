"""Guidance of another scale for single images and steps of an ordinary run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from unmemorize._errors import MitigationError, ModelError
from unmemorize.generation import Drawing, DrawingCall, watching
from unmemorize.methods._method import WhileDrawing
from unmemorize.pipelines import Model

Scale = Callable[[DrawingCall, Tensor], Tensor]
"""(call, differences (images, C, H, W) of predictions with and without text) -> the scale of
guidance for each image, (images,)."""
Direction = Callable[[DrawingCall, Tensor, Tensor], Tensor]
"""(call, predictions without text, predictions with text) -> what guidance leads to, minus the
prediction without text; all (images, C, H, W)."""


def refuse_unguided(model: Model, method: str) -> None:
    """Refuse a pipeline that makes no predictions without text, or guides by a third prediction.

    Raises:
        MitigationError: it is one.
    """
    kind = type(model.pipe).__name__
    if getattr(model.pipe, "pag_applied_layers", None):
        raise MitigationError(
            f"{method}: {kind} adds perturbed-attention guidance (PAG), which leads away from a "
            "third prediction that the method does not know. Draw with a pipeline without PAG: "
            "AutoPipelineForText2Image.from_pipe(pipe, enable_pag=False)."
        )
    try:
        model.guidance(1.0)
    except ModelError as problem:
        raise MitigationError(
            f"{method}: {type(model.pipe).__name__} has no prediction without text beside the one "
            "with text, so guidance cannot change. Use random-tokens or embedding."
        ) from problem


class OtherGuidance(WhileDrawing):
    """A method that draws with guidance of another scale."""

    def check(self, model: Model) -> None:
        """See `WhileDrawing`.

        Raises:
            MitigationError: the pipeline makes no predictions without text.
        """
        refuse_unguided(model, self.kind)


@contextmanager
def directed(model: Model, drawing: Drawing, method: str, direction: Direction) -> Iterator[None]:
    """Replace what guidance adds to the prediction without text.

    The pipeline computes o + g (c - o). The prediction c with text becomes o + direction / g.

    Args:
        model: the model.
        drawing: the images.
        method: the name of the method, for errors.
        direction: see `Direction`.

    Raises:
        MitigationError: the run has no guidance, or the pipeline no prediction without text.
    """
    if drawing.guidance <= 1:
        raise MitigationError(
            f"{method}: it changes guidance, and guidance {drawing.guidance:g} is none. "
            "Draw with guidance above 1, such as 7."
        )
    refuse_unguided(model, method)
    channels = drawing.noise.shape[1]

    def returns(call: DrawingCall, output: Tensor) -> Tensor:
        if len(call.unconditional) != len(call.rows):
            raise MitigationError(
                f"{method}: {type(model.pipe).__name__} predicts with and without text in calls of "
                "their own, so guidance cannot change. Use random-tokens or embedding."
            )
        # further channels are a learned variance
        without = output[call.unconditional, :channels].float()
        text = output[call.rows, :channels].float()
        changed = without + direction(call, without, text) / drawing.guidance
        result = output.clone()
        result[call.rows, :channels] = changed.to(result.dtype)
        return result

    with watching(model, drawing, returns=returns):
        yield


@contextmanager
def guided(model: Model, drawing: Drawing, method: str, scale: Scale) -> Iterator[None]:
    """Draw images with guidance of other scales.

    Args:
        model: the model.
        drawing: the images.
        method: the name of the method, for errors.
        scale: see `Scale`.

    Raises:
        MitigationError: see `directed`.
    """

    def direction(call: DrawingCall, without: Tensor, text: Tensor) -> Tensor:
        difference = text - without
        return scale(call, difference).to(difference).view(-1, 1, 1, 1) * difference

    with directed(model, drawing, method, direction):
        yield
