"""What the tests of an audit can show at best, before the work."""

from __future__ import annotations

from collections.abc import Sequence

from unmemorize._prompts import Prompt
from unmemorize._words import counted
from unmemorize.audit._arms import AuditInputs
from unmemorize.audit._attack import is_imageless, make_attacks
from unmemorize.audit._audit import CEILING
from unmemorize.audit._comparisons import smallest_sign_flip_p, smallest_two_sample_p
from unmemorize.audit._settings import AuditSettings
from unmemorize.audit._verdicts import CHEAPER


def reach_in_words(settings: AuditSettings, inputs: AuditInputs, prompts: Sequence[Prompt]) -> str:
    """Say before the work that no image can be found cheaper, where that is so.

    Attacks that turn out not to be possible on the model are counted, too, and so is each prompt
    where several show the same image.

    Args:
        settings: of the audit.
        inputs: what it compares with.
        prompts: those that are audited, with their images.

    Returns:
        A warning; empty where the tests can reach their level, and where there are none.
    """
    if "never-trained" not in settings.arms or not (inputs.twins or inputs.controls):
        return ""
    tests = sum(
        len(attack.ladder(settings.steps))
        for attack in make_attacks(settings.levels, settings.attacks)
        if attack.name != CEILING and (inputs.twins or not is_imageless(attack))
    )
    if inputs.twins:
        images = len({index for twin in inputs.twins for index in twin.prompts})
        against, smallest = "a twin", smallest_sign_flip_p(images)
    else:
        images, controls = len(prompts), len(inputs.controls)
        against, smallest = counted(controls, "control"), smallest_two_sample_p(images, controls)
    reached = min(1.0, tests * smallest)
    if not tests or reached <= settings.alpha:
        return ""
    return (
        f'No verdict of this audit can be "{CHEAPER}", even if every image comes back: the '
        f"smallest p of {counted(images, 'image')} against {against} is {smallest:.2g}, corrected "
        f"over {counted(tests, 'test')} (one for each attack and budget) it is {reached:.2g}, and "
        f"{settings.alpha:g} is needed. Give more images, or fewer --levels and --max-steps."
    )
