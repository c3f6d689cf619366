"""How many records an audit will have, which tells how far it is."""

from __future__ import annotations

from unmemorize.audit._attack import make_attacks
from unmemorize.audit._records import kind_of
from unmemorize.audit._settings import AuditRun
from unmemorize.runs import Run


def audit_totals(run: Run) -> dict[str, int]:
    """Return how many records an audit will have of each kind, for `status_of`.

    Of ordinary images, there may be fewer: as many as there are captions.
    """
    made_of, items = run.settings(AuditRun), run.manifest.items
    settings = made_of.settings
    images = {
        **dict.fromkeys(("edited", "unedited", "random"), items),
        "ordinary": settings.ordinary_images,
        "never-trained": _attacked_controls(made_of, items),
    }
    for number, prompts in enumerate(made_of.twin_prompts, 1):
        images[f"never-trained-{number}"] = len(prompts)
    return {
        kind_of(arm, attack.name): count
        * len(attack.trials(settings.starts, settings.seeds))
        * len(attack.ladder(settings.steps))
        for attack in make_attacks(settings.levels, settings.attacks)
        for arm, count in images.items()
    }


def _attacked_controls(made_of: AuditRun, items: int) -> int:
    """Count how often controls are attacked: from all captions of the images that they face."""
    captions = {numbers[0]: len(numbers) for numbers in made_of.same_images}
    again = {number for numbers in made_of.same_images for number in numbers[1:]}
    turns = [captions.get(number, 1) for number in range(items) if number not in again]
    return sum(turns[number % len(turns)] for number in range(len(made_of.controls)))
