"""How a pipeline computes predictions with and without text in an ordinary generation."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize.pipelines._conditioning import first_call
from unmemorize.pipelines._encoded import TEXT, Conditioning

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model

_SAME = 0.02
"""Largest difference of equal text embeddings, relative to their norm. Half precision rounds by
less in batches of another size; another text differs by more."""


@dataclass(frozen=True)
class GuidedCalls:
    """How the predictions of classifier-free guidance are computed.

    Args:
        unconditional: the text embedding of the prediction without text, (1, tokens, features).
        together: whether one call of the denoiser computes both halves, without text first.
            Otherwise a call with text is followed by one without.
    """

    unconditional: Tensor
    together: bool

    def lacks_text(self, text: Tensor) -> bool:
        """Tell whether all rows of a text embedding (B, tokens, features) are without text."""
        expected = self.unconditional
        if text.shape[1:] != expected.shape[1:]:
            return False
        difference = (text.float() - expected.to(text.device).float()).flatten(1).norm(dim=1)
        return bool((difference <= _SAME * expected.float().norm().to(text.device)).all())


def without_text(model: Model) -> Conditioning:
    """Return what the denoiser receives in place of a prompt, one row.

    Under guidance this is what the pipeline uses there (zeros in Stable Diffusion XL). For a
    pipeline without guidance in one pass it is the empty prompt.
    """

    def find() -> Conditioning:
        try:
            guidance = model.guidance(1.0)
        except ModelError:
            return model.encode([""])
        assert guidance is not None
        return guidance.unconditional

    return model.remembered(("without text", model.dtype), find)


def guided_calls(model: Model) -> GuidedCalls:
    """Observe how a pipeline computes classifier-free guidance against the empty prompt.

    Raises:
        ModelError: it has none. Models whose guidance was distilled into them are of this kind.
    """
    return model.remembered(("guided calls", model.dtype), lambda: _observed(model))


@torch.no_grad()
def _observed(model: Model) -> GuidedCalls:
    pipe: Any = model.pipe
    text = first_call(pipe, [""], 2, guidance=2.0).arguments[TEXT]
    if len(text) == 2:
        return GuidedCalls(text[:1], together=True)
    config = getattr(model.denoiser, "config", {})
    parameters = inspect.signature(type(pipe).__call__).parameters
    if "true_cfg_scale" in parameters and not config.get("guidance_embeds"):
        return GuidedCalls(text, together=False)
    raise ModelError(
        f"{type(pipe).__name__}: it computes no prediction without text, because it has no "
        "classifier-free guidance or its guidance was distilled into the model. A guard compares "
        "the two. Use unmemorize detect with seed-similarity, which needs one of them."
    )
