"""What an audit will cost, before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unmemorize._prompts import Prompt
from unmemorize.audit._arms import (
    AuditInputs,
    arms_for,
    arms_of,
    ordinary_captions,
    refuse_unfit,
    takes_whole,
)
from unmemorize.audit._attack import Attack, Target, make_attacks
from unmemorize.audit._settings import AuditSettings
from unmemorize.audit._stages import why_impossible
from unmemorize.audit._targets import companions_of, targets_of
from unmemorize.mitigation import seconds_per_sample
from unmemorize.pipelines import Model


@dataclass(frozen=True, kw_only=True)
class AuditForecast:
    """The cost of an audit.

    Args:
        samples: denoiser samples of each attack over all arms; a backward pass counts as two.
        attacked: images that are attacked in all arms, each as often as it has captions.
        seconds: all samples times the measured time of one.
        impossible: attacks that are not possible on this model, with the reason.
    """

    samples: Mapping[str, int]
    attacked: int
    seconds: float
    impossible: Mapping[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Denoiser samples of all attacks."""
        return sum(self.samples.values())


def forecast_audit(
    model: Model, settings: AuditSettings, inputs: AuditInputs, prompts: Sequence[Prompt]
) -> AuditForecast:
    """Count what an audit takes, and time one pass of the denoiser.

    Args:
        model: the model.
        settings: of the audit.
        inputs: the edit and the controls.
        prompts: memorized prompts with their images.

    Raises:
        AuditError: a prompt has no image, or see `refuse_unfit`.
    """
    refuse_unfit(model, prompts, inputs)
    targets = targets_of(prompts, whole=takes_whole(inputs, settings))
    ordinary = [
        Target(key="", prompt=caption, images=())  # nothing is drawn yet
        for caption in ordinary_captions(inputs.captions, prompts, settings)
    ]
    arms = tuple(arms_of(model, inputs, targets, settings, ordinary))
    companions = companions_of(targets)
    attacked, impossible = dict[str, int](), dict[str, str]()
    for attack in make_attacks(settings.levels, settings.attacks):
        reason = why_impossible(attack, model, inputs, companions)
        if reason:
            impossible[attack.name] = reason
        else:
            attacked[attack.name] = sum(len(arm.targets) for arm in arms_for(attack, arms, model))
    return _forecast(model, settings, attacked, impossible)


def forecast_images(model: Model, settings: AuditSettings, attacked: int) -> AuditForecast:
    """Count what an audit of images takes, and time one pass of the denoiser.

    Args:
        model: the model.
        settings: how to attack, see `AuditSettings.image_first`.
        attacked: how many images are attacked, controls included.
    """
    first = settings.image_first()
    return _forecast(model, first, dict.fromkeys(first.levels, attacked), {})


def _forecast(
    model: Model,
    settings: AuditSettings,
    attacked: Mapping[str, int],
    impossible: Mapping[str, str],
) -> AuditForecast:
    attacks = make_attacks(settings.levels, settings.attacks)
    samples = {
        attack.name: attacked[attack.name] * _samples(attack, settings)
        for attack in attacks
        if attack.name in attacked
    }
    batch = settings.batch * settings.together
    return AuditForecast(
        samples=samples,
        attacked=max(attacked.values(), default=0),
        seconds=sum(samples.values()) * seconds_per_sample(model, batch),
        impossible=impossible,
    )


def _samples(attack: Attack, settings: AuditSettings) -> int:
    """Return the denoiser samples of an attack on one image, with its images at each budget."""
    generation = settings.generation
    halves = 2 if generation.guidance > 1 else 1
    images = settings.images * generation.steps * halves
    ladder = attack.ladder(settings.steps)
    work = attack.samples(ladder[-1], settings.batch) + len(ladder) * images
    return len(attack.trials(settings.starts, settings.seeds)) * work
