"""The arms of an audit: the same attack on different models or images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unmemorize._errors import AuditError
from unmemorize._files import hash_texts
from unmemorize._prompts import Prompt
from unmemorize.audit._attack import Target
from unmemorize.audit._settings import ArmName, AuditSettings
from unmemorize.generation import Edit, generate_each
from unmemorize.metrics import Descriptor, distinct_images, read_image, read_references
from unmemorize.mitigation import control_edit, derived_seed
from unmemorize.pipelines import Model
from unmemorize.runs import hash_of_file


@dataclass(frozen=True)
class Twin:
    """A model that was never trained on the images of some prompts, but like the audited one.

    Args:
        model: the model.
        prompts: positions of those prompts in the run.
    """

    model: Model
    prompts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AuditInputs:
    """What an audit works with, besides the model and the prompts.

    Args:
        edit: the edit to audit; None for the model as it is.
        captions: ordinary captions.
        descriptor: compares images.
        controls: image files that the model was never trained on.
        shipped: whether these are the photographs of this package, of which nobody can know that
            another model was never trained on them.
        twins: never-trained models, which are the better control.
        seeded_by: what random numbers depend on besides the model, such as the digest of a trained
            edit. None gives all edits the same ones.
    """

    edit: Edit | None
    captions: tuple[str, ...]
    descriptor: Descriptor
    controls: tuple[Path, ...] = ()
    shipped: bool = False
    twins: tuple[Twin, ...] = ()
    seeded_by: str | None = None

    def seed_name(self, model: Model) -> str:
        """Return what the seeds of all arms are derived from, for the audited model."""
        own = model.fingerprint
        return own if self.seeded_by is None else f"{own} {self.seeded_by}"

    @property
    def never_trained(self) -> str:
        """What the never-trained arm is, in words; empty without one."""
        if self.twins:
            return "the same images in a model that never saw them"
        if not self.controls:
            return ""
        if self.shipped:
            return "other images: photographs of this package (the weakest control)"
        return "other images, said to be never trained on (weaker than a twin)"


@dataclass(frozen=True)
class Arm:
    """Images that are attacked in one model.

    Args:
        name: of the arm. Twins for different prompts are arms of one name.
        suffix: tells these apart in records.
        model: the model.
        edit: what is applied to it; None for nothing.
        targets: the images.
        indices: the position of each image: that of its prompt, or any number.
    """

    name: ArmName
    suffix: str
    model: Model
    edit: Edit | None
    targets: tuple[Target, ...]
    indices: tuple[int, ...]

    @property
    def records(self) -> str:
        """The beginning of the names of its records."""
        return f"{self.name}{self.suffix}"


def targets_of(prompts: Sequence[Prompt]) -> tuple[Target, ...]:
    """Return the images of prompts as targets.

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
                "image, and none can be read. Name it in the column images, or give --references."
            )
        if prompt.kind != "TM":
            images = images[:1]
        hashes = [hash_of_file(path) for path in prompt.images]
        targets.append(
            Target(
                key=hash_texts([prompt.text, *hashes])[:16],
                prompt=prompt.text,
                images=images,
                paraphrases=prompt.paraphrases,
            )
        )
    return tuple(targets)


def targets_of_files(files: Sequence[Path], prompts: Sequence[str] = ("",)) -> tuple[Target, ...]:
    """Return image files as targets.

    Args:
        files: the images.
        prompts: the captions from which they are attacked, in turn; empty where none is known.
    """
    return tuple(
        Target(
            key=hash_texts([hash_of_file(path)])[:16],
            prompt=prompts[number % len(prompts)],
            images=(read_image(path),),
        )
        for number, path in enumerate(files)
    )


def arms_of(
    model: Model, inputs: AuditInputs, targets: Sequence[Target], settings: AuditSettings
) -> Iterator[Arm]:
    """Yield the arms of an audit, the audited one first.

    The never-trained arm attacks the same images in twins where there are some. Otherwise it
    attacks other images in the edited model, from the captions of the audited ones. Ordinary images
    are drawn by the unedited model.
    """
    audited, every = tuple(targets), tuple(range(len(targets)))
    yield Arm("edited", "", model, inputs.edit, audited, every)
    if inputs.edit is not None and "unedited" in settings.arms:
        yield Arm("unedited", "", model, None, audited, every)
    if "never-trained" in settings.arms:
        yield from _never_trained(model, inputs, audited)
    random = None
    if inputs.edit is not None and "random" in settings.arms:
        random = control_edit(inputs.edit, model)
    if random is not None:
        yield Arm("random", "", model, random, audited, every)
    if settings.ordinary_images and "ordinary" in settings.arms:
        ordinary = tuple(_ordinary(model, inputs.captions, settings))
        yield Arm("ordinary", "", model, inputs.edit, ordinary, tuple(range(len(ordinary))))


def _never_trained(model: Model, inputs: AuditInputs, audited: tuple[Target, ...]) -> Iterator[Arm]:
    """Yield the images in twins, or else other images in the edited model."""
    for number, twin in enumerate(inputs.twins):
        some = tuple(audited[index] for index in twin.prompts)
        yield Arm("never-trained", f"-{number + 1}", twin.model, None, some, twin.prompts)
    if inputs.controls and not inputs.twins:
        others = targets_of_files(inputs.controls, [target.prompt for target in audited])
        every = tuple(range(len(others)))
        yield Arm("never-trained", "", model, inputs.edit, others, every)


def _ordinary(model: Model, captions: Sequence[str], settings: AuditSettings) -> Iterator[Target]:
    """Yield images of ordinary captions by the unedited model, as targets."""
    texts = list(dict.fromkeys(captions))[: settings.ordinary_images]
    seeds = [derived_seed("audit ordinary", text) for text in texts]
    one = replace(settings.generation, images=1)
    images = generate_each(model, texts, [None] * len(texts), settings=one, seeds=seeds)
    for text, (image,) in zip(texts, images, strict=True):
        yield Target(key=hash_texts(["ordinary", text])[:16], prompt=text, images=(image,))


def edit_text(edit: Edit | None) -> str:
    """Return an edit as one line of text; empty for none."""
    return "" if edit is None else json.dumps(edit.to_json(), sort_keys=True)


def twin_texts(twins: Sequence[Twin]) -> tuple[str, ...]:
    """Describe twins for a manifest: the fingerprint of each, and its prompts."""
    return tuple(
        f"{twin.model.fingerprint} for {', '.join(map(str, twin.prompts))}" for twin in twins
    )


def hash_of_images(prompts: Sequence[Prompt]) -> str:
    """Return a hash of the training images of all prompts, for a manifest.

    The hash of the prompts in a manifest holds only the names of these files.
    """
    return hash_texts(hash_of_file(path) for prompt in prompts for path in prompt.images)


def refuse_controls_among(images: Sequence[Path], controls: Sequence[Path]) -> None:
    """Refuse audited images that are controls, too.

    Raises:
        AuditError: one is.
    """
    hashes = {hash_of_file(path) for path in controls}
    for path in images:
        if (digest := hash_of_file(path)) and digest in hashes:
            raise AuditError(
                f"{path}: it is among the controls, too. A control is an image that the model was "
                "never trained on. Take it out of one of them."
            )
