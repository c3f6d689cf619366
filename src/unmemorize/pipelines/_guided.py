"""How a pipeline computes predictions with and without text in an ordinary generation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize.pipelines._conditioning import first_call
from unmemorize.pipelines._encoded import TEXT, Conditioning, Key

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model

_SAME = 0.02
"""Largest difference of equal text embeddings, relative to their norm. Half precision rounds by
less in batches of another size; another text differs by more."""
_TEXT = "a text that differs from no text in each argument that depends on the text"


@dataclass(frozen=True)
class GuidedCalls:
    """How the predictions of classifier-free guidance are computed.

    Args:
        without: the arguments of the prediction without text that depend on the text, such as its
            embedding (1, tokens, features), pooled embeddings and masks, one row each.
        together: whether one call of the denoiser computes both halves, without text first.
            Otherwise a call with text is followed by one without.
    """

    without: Mapping[Key, Tensor]
    together: bool

    def lacks_text(self, text: Tensor) -> bool:
        """Tell whether all rows of a text embedding (B, tokens, features) are without text."""
        expected = self.without[TEXT]
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

    return model.remembered("without text", find)


def guided_calls(model: Model) -> GuidedCalls:
    """Observe how a pipeline computes classifier-free guidance against the empty prompt.

    Raises:
        ModelError: it has none. Models whose guidance was distilled into them are of this kind.
    """
    return model.remembered("guided calls", lambda: _observed(model))


@torch.no_grad()
def _observed(model: Model) -> GuidedCalls:
    pipe: Any = model.pipe
    arguments = first_call(pipe, [_TEXT], 2, guidance=2.0).arguments
    if len(arguments[TEXT]) == 2:
        of_prompts = {key: arguments[key] for key in model.layout.per_prompt if key in arguments}
        without = {
            key: value[:1]
            for key, value in of_prompts.items()
            if isinstance(value, Tensor) and not torch.equal(value[:1], value[1:])
        }
        return GuidedCalls(without, together=True)
    config = getattr(model.denoiser, "config", {})
    parameters = inspect.signature(type(pipe).__call__).parameters
    if "true_cfg_scale" in parameters and not config.get("guidance_embeds"):
        empty = first_call(pipe, [""], 2, guidance=2.0).arguments
        return GuidedCalls({TEXT: empty[TEXT]}, together=False)
    raise ModelError(
        f"{type(pipe).__name__}: it computes no prediction without text, because it has no "
        "classifier-free guidance or its guidance was distilled into the model. A guard compares "
        "the two. Use unmemorize detect with seed-similarity, which needs one of them."
    )
