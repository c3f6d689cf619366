"""What an audit will cost, before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unmemorize.audit._arms import AuditInputs
from unmemorize.audit._attack import Attack, make_attacks
from unmemorize.audit._settings import AuditSettings
from unmemorize.mitigation import control_edit, seconds_per_sample
from unmemorize.pipelines import Model


@dataclass(frozen=True, kw_only=True)
class AuditForecast:
    """The cost of an audit.

    Args:
        samples: denoiser samples of each attack over all arms; a backward pass counts as two.
        attacked: images that are attacked in all arms.
        seconds: all samples times the measured time of one.
    """

    samples: Mapping[str, int]
    attacked: int
    seconds: float

    @property
    def total(self) -> int:
        """Denoiser samples of all attacks."""
        return sum(self.samples.values())


def forecast_audit(
    model: Model, settings: AuditSettings, inputs: AuditInputs, images: int
) -> AuditForecast:
    """Count what an audit takes, and time one pass of the denoiser.

    Args:
        model: the model.
        settings: of the audit.
        inputs: the edit and the controls.
        images: how many images are audited.
    """
    attacked = images
    if inputs.edit is not None:
        attacked += images * ("unedited" in settings.arms)
        random = "random" in settings.arms and control_edit(inputs.edit, model) is not None
        attacked += images * random
    if "never-trained" in settings.arms:
        twins = sum(len(twin.prompts) for twin in inputs.twins)
        attacked += twins if inputs.twins else len(inputs.controls)
    if "ordinary" in settings.arms:
        attacked += settings.ordinary_images
    return forecast_attacks(model, settings, attacked)


def forecast_attacks(model: Model, settings: AuditSettings, attacked: int) -> AuditForecast:
    """Count what attacks on so many images take."""
    attacks = make_attacks(settings.levels, settings.attacks)
    samples = {attack.name: attacked * _samples(attack, settings) for attack in attacks}
    batch = settings.batch * settings.together
    return AuditForecast(
        samples=samples,
        attacked=attacked,
        seconds=sum(samples.values()) * seconds_per_sample(model, batch),
    )


def _samples(attack: Attack, settings: AuditSettings) -> int:
    """Return the denoiser samples of an attack on one image, with its images at each budget."""
    generation = settings.generation
    halves = 2 if generation.guidance > 1 else 1
    images = settings.images * generation.steps * halves
    ladder = attack.ladder(settings.steps)
    work = attack.samples(ladder[-1], settings.batch) + len(ladder) * images
    return len(attack.trials(settings.starts, settings.seeds)) * work
