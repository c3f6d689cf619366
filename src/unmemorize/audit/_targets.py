"""The images that are attacked, which of them are the same, and what may be compared with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from unmemorize._errors import AuditError, MetricError
from unmemorize._files import as_paths, hash_texts
from unmemorize._prompts import Prompt
from unmemorize.audit._attack import Target
from unmemorize.audit._bench import Companion, content_of
from unmemorize.audit._task import measure_of
from unmemorize.metrics import distinct_images, read_image, read_references
from unmemorize.runs import hash_of_file

log = logging.getLogger(__name__)


def targets_of(prompts: Sequence[Prompt], *, whole: bool = False) -> tuple[Target, ...]:
    """Return the images of prompts as targets.

    Args:
        prompts: memorized prompts with their images.
        whole: take one image of each template, which is compared as a whole. The images of a
            folder have no layout, so they give no level of a copy for one.

    Raises:
        AuditError: a prompt has no image that can be read.
    """
    if not prompts:
        raise AuditError("no prompt to audit. Name memorized prompts with --prompts.")
    targets = []
    for number, prompt in enumerate(prompts):
        images = distinct_images(read_references(prompt.images).images)
        if not images:
            raise AuditError(
                f"prompt {number} ({prompt.text[:60]!r}): an audit compares with its training "
                "image, and none can be read. Name it in the column images, give --references, or "
                "leave the prompt out: give the others with --prompts."
            )
        if prompt.kind != "TM":
            images = images[:1]
        hashes = [hash_of_file(path) for path in prompt.images]
        targets.append(
            Target(
                key=hash_texts([prompt.text, *hashes])[:16],
                prompt=prompt.text,
                images=images[:1] if whole else images,
                paraphrases=prompt.paraphrases,
                others=images[1:] if whole else (),
            )
        )
    return tuple(targets)


def units_of(targets: Sequence[Target]) -> tuple[int, ...]:
    """Return for each target the position of the first one that shows the same image.

    Targets that are compared in different ways are never the same, because their scores are not.

    Examples:
        >>> from PIL import Image
        >>> red, blue = (Image.new("RGB", (8, 8), name) for name in ("red", "blue"))
        >>> units_of([Target(key="", prompt="", images=(each,)) for each in (red, blue, red)])
        (0, 1, 0)
    """
    units = list(range(len(targets)))

    @cache
    def measure(number: int) -> str:
        return measure_of(targets[number])

    for number, target in enumerate(targets):
        same = {
            units[earlier]
            for earlier in range(number)
            if targets[earlier].contents & target.contents and measure(earlier) == measure(number)
        }
        merged = {*same, number}
        units = [min(merged) if unit in merged else unit for unit in units]
    return tuple(units)


def joined(units: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the positions of targets that are one image, for each different image.

    Examples:
        >>> joined((0, 1, 0))
        ((0, 2), (1,))
    """
    return tuple(
        tuple(number for number, own in enumerate(units) if own == unit)
        for unit in dict.fromkeys(units)
    )


def remarks_on(targets: Sequence[Target]) -> tuple[str, ...]:
    """Say which prompts count as one image, and which images are not compared as they should be."""
    remarks = [
        f"Prompts {', '.join(map(str, numbers))} show the same image. It counts once, with the "
        "best of its captions."
        for numbers in joined(units_of(targets))
        if len(numbers) > 1
    ]
    if whole := sum(bool(target.others) for target in targets):
        remarks.append(
            f"Templates that are compared as whole images, by the first of their images: {whole}. "
            "Other images have no layout to compare. A copy of the layout alone may score low; "
            "a twin tells more."
        )
    return tuple(remarks)


def companions_of(targets: Sequence[Target]) -> tuple[Companion, ...]:
    """Return what relearning trains on."""
    return tuple(Companion(target.prompt, target.images[0], target.contents) for target in targets)


def targets_of_files(files: Sequence[Path], prompts: Sequence[str] = ("",)) -> tuple[Target, ...]:
    """Return image files as targets.

    Args:
        files: the images.
        prompts: the captions from which they are attacked, in turn; empty where none is known.
    """
    targets, _ = controls_of(files, [(prompt,) for prompt in prompts])
    return targets


def controls_of(
    files: Sequence[Path], captions: Sequence[Sequence[str]]
) -> tuple[tuple[Target, ...], tuple[int, ...]]:
    """Return image files as targets, each attacked from all captions of one audited image.

    So an image that has several captions meets controls that were tried as often.

    Args:
        files: the images.
        captions: of each audited image. Files take these groups in turn.

    Returns:
        The targets, and for each of them the position of its file.
    """
    targets, indices = [], []
    for number, path in enumerate(files):
        image, digest = read_image(path), hash_of_file(path)
        for place, caption in enumerate(captions[number % len(captions)]):
            identity = [digest, caption] if place else [digest]
            targets.append(Target(key=hash_texts(identity)[:16], prompt=caption, images=(image,)))
            indices.append(number)
    return tuple(targets), tuple(indices)


def distinct_controls(files: Iterable[str | Path]) -> tuple[Path, ...]:
    """Leave out controls that show the same image as an earlier one, and log how many.

    Each control counts as an observation of its own.

    Raises:
        AuditError: they are no list of paths.
        MetricError: one cannot be read.
    """
    paths, first = as_paths(files, AuditError, "control image"), dict[str, Path]()
    for path in paths:
        first.setdefault(content_of(read_image(path)), path)
    if repeated := len(paths) - len(first):
        log.warning(
            "%d of %d controls show the same image as another one. They are left out.",
            repeated,
            len(paths),
        )
    return tuple(first.values())


def refuse_controls_among(images: Sequence[Path], controls: Sequence[Path]) -> None:
    """Refuse audited images that are controls, too, and controls that are there twice.

    Raises:
        AuditError: one is.
        MetricError: a control cannot be read.
    """
    known: dict[str, Path] = {}
    for path in controls:
        content = content_of(read_image(path))
        if content in known:
            raise AuditError(
                f"{path}: it shows the same image as {known[content]}, and each control counts as "
                "an observation of its own. Take one of them out."
            )
        known[content] = path
    for path in images:
        try:
            content = content_of(read_image(path))
        except MetricError:  # it is not attacked
            continue
        if content in known:
            raise AuditError(
                f"{path}: it is among the controls, too. A control is an image that the model was "
                "never trained on. Take it out of one of them."
            )


def refuse_repeated(images: Sequence[Path]) -> None:
    """Refuse images of which several are the same, since each has a p-value of its own.

    Raises:
        AuditError: two are.
        MetricError: one cannot be read.
    """
    known: dict[str, Path] = {}
    for path in images:
        content = content_of(read_image(path))
        if content in known:
            raise AuditError(f"{path}: it shows the same image as {known[content]}. Name it once.")
        known[content] = path
