"""Which images of a mitigation may be shown where training images are private.

A copy shows the training image as well as the training image does. So a redacted report also leaves
out what the unedited model drew for suspects, what it drew with random neurons edited, pictures of
its first step, and edited images that still count as copies. Hashes and numbers stay.

So it does with images of memorized prompts that are ordinary captions, too. Images of other
ordinary captions stay: records do not tell which of them show a training image.
"""

from __future__ import annotations

from unmemorize.mitigation import PromptOutcome


def shown_after(outcome: PromptOutcome, *, redact: bool) -> tuple[int, ...]:
    """Return which of a prompt's edited images may be shown.

    Args:
        outcome: a confirmed prompt.
        redact: whether training images are private.
    """
    every = range(len(outcome.files_after))
    if not redact:
        return tuple(every)
    level = outcome.level
    return tuple(
        seed for seed in every if level is not None and outcome.scores_after[seed] <= level
    )
