"""Predictions without text, which all prompts share on untouched noise."""

from __future__ import annotations

from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize.detection._moment import Moment
from unmemorize.pipelines import Model, state_of


def is_distilled(model: Model) -> bool:
    """Tell whether guidance was distilled into a model, so that it is never run without text."""
    config = getattr(model.denoiser, "config", {})
    return bool(config.get("guidance_embeds") or config.get("time_cond_proj_dim"))


def refuse_distilled(model: Model) -> None:
    """Refuse a model that has no prediction without text to compare with.

    Raises:
        ModelError: guidance was distilled into it.
    """
    if is_distilled(model):
        raise ModelError(
            f"{model.name}: guidance is distilled into it, so it has no prediction without text. "
            "Use a detector that needs none: seed-similarity."
        )


def known_without_text(
    model: Model, seed: int, moment: Moment, kind: str = "predictions"
) -> dict[tuple[int | None, int], Tensor]:
    """Return what a model has made without text so far on untouched noise.

    Weights that were changed and modules that were hooked since count as another model. Weights
    that were loaded in inference mode count no changes.

    Args:
        model: the model.
        seed: the seed of the initial noises.
        moment: where on untouched noise.
        kind: what was made.

    Returns:
        (None, index of the noise) -> prediction or the like. Whoever makes new ones adds them.
    """
    changes = sum(
        0 if weight.is_inference() else weight._version for weight in model.denoiser.parameters()
    )
    key = ("without text", kind, seed, moment, changes, state_of(model.denoiser))
    return model.remembered(key, dict)
