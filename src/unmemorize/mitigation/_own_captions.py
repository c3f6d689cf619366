"""Ordinary captions that may draw the training images of a suspect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from unmemorize._prompts import Prompt
from unmemorize.detection import smallest_rate
from unmemorize.mitigation._copy_test import Null
from unmemorize.runs import hash_of_file


def own_captions(prompts: Mapping[int, Prompt], captions: Collection[str]) -> dict[int, set[str]]:
    """Return for each suspect the captions that may draw its training images.

    These are its text, and those of suspects with a training image in common with it.

    Args:
        prompts: the suspects by index.
        captions: ordinary ones, among which they are looked for.
    """
    known = set(captions)
    ordinary = [prompt for prompt in prompts.values() if prompt.text in known]
    if not ordinary:
        return {index: set() for index in prompts}
    hashes = {prompt.text: set(map(hash_of_file, prompt.images)) for prompt in prompts.values()}
    return {
        index: {
            other.text
            for other in ordinary
            if other.text == prompt.text or hashes[other.text] & hashes[prompt.text] - {""}
        }
        for index, prompt in prompts.items()
    }


def without_own(own: Collection[str], captions: Sequence[str], null: Null) -> Null:
    """Leave images of captions that may draw copies of a suspect out of those of ordinary ones.

    They would raise the level until no image is a copy. Where too few are left for the rate of
    false copies, it is the smallest that they allow. Without training images they count: then they
    say how much the caption alone makes images alike.

    Args:
        own: see `own_captions`.
        captions: of the images.
        null: the images.
    """
    others = [number for number, caption in enumerate(captions) if caption not in own]
    if len(others) == len(captions) or not others:
        return null
    return Null(
        null.embeddings[others],
        None if null.others is None else null.others[others],
        [null.images[number] for number in others],
        smallest_rate(len(others), null.rate),
    )
