"""Which images of a mitigation may be shown where training images are private.

A copy shows the training image as well as the training image does. So a redacted report also leaves
out what the unedited model drew for suspects, what it drew with random neurons edited, pictures of
its first step, and edited images that still count as copies. Hashes and numbers stay.

Of images of ordinary captions it leaves out those whose caption is a suspect's, and those whose
unedited image scores above the level of a suspect, under every edit. Where an earlier version made
the run, nothing tells these scores, so it leaves out all of them.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from unmemorize.mitigation import PromptOutcome, read_ordinary
from unmemorize.report._evidence import Evidence


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


def private_ordinary(evidence: Evidence) -> frozenset[str]:
    """Return which images of ordinary captions may show a training image.

    Returns:
        The names of their files without the folder. All edits have the same names.
    """
    if evidence.result.ordinary is None:
        return frozenset()
    images = evidence.mitigation.settings.ordinary_images
    ordinary = read_ordinary(evidence.run, "ordinary-before", images)
    names = [PurePosixPath(file).name for file in ordinary.files]
    suspects = {_as_read(prompt.text) for prompt in evidence.prompts}
    private = {
        name
        for name, caption in zip(names, ordinary.captions, strict=True)
        if _as_read(caption) in suspects
    }
    for record in evidence.confirmations.values():
        if record.ordinary_copies is None:
            return frozenset(names)
        private |= {names[place] for place in record.ordinary_copies}
    return frozenset(private)


def _as_read(text: str) -> str:
    """Return a caption without what tokenizers may pass over: capitals and spaces."""
    return " ".join(text.casefold().split())
