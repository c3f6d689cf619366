"""What a hardening will cost, before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from unmemorize._prompts import Prompt
from unmemorize.audit import FORWARD_AND_BACKWARD, AuditForecast, forecast_audit
from unmemorize.hardening._attacks import IMAGES, attack_of
from unmemorize.hardening._examples import SUBSTITUTES
from unmemorize.hardening._settings import HardeningInputs, HardeningSettings
from unmemorize.mitigation import seconds_per_sample
from unmemorize.pipelines import Model


def forecast_hardening(
    model: Model,
    settings: HardeningSettings,
    inputs: HardeningInputs,
    prompts: Sequence[Prompt],
) -> AuditForecast:
    """Count what a hardening takes, and time one pass of the denoiser.

    Args:
        model: the model.
        settings: of the hardening.
        inputs: the edit and the controls.
        prompts: memorized prompts with their images.

    Raises:
        AuditError: see `forecast_audit`.
    """
    audit, rounds, images = settings.audit, settings.rounds, len(prompts)
    one = audit.generation.steps * (2 if audit.generation.guidance > 1 else 1)
    judged = forecast_audit(model, audit, inputs.audit, prompts)
    attack = attack_of(settings).samples(audit.steps[-1], audit.batch) + IMAGES * one
    taught = settings.kept + (settings.forgotten if settings.distils else 0)  # at most
    step = (settings.forgotten + settings.kept) * FORWARD_AND_BACKWARD + taught
    substitutes = images * SUBSTITUTES if settings.substitutes else 0
    kept = min(settings.kept_images, len(inputs.keep)) * audit.generation.steps
    sets = 3 if inputs.clip else 2  # of ordinary images
    samples = {
        "examples": substitutes * one + kept,
        "attacks of the training": rounds * images * attack,
        "training": rounds * images * settings.steps * step,
        "ordinary images": sets * settings.ordinary_images * one,
        "judging attacks": judged.total,
    }
    seconds = sum(samples.values()) * seconds_per_sample(model, audit.batch)
    return AuditForecast(samples=samples, attacked=judged.attacked, seconds=seconds)
