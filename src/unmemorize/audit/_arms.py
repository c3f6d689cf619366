"""The arms of an audit: the same attack on different models or images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unmemorize._errors import AuditError
from unmemorize._files import hash_texts
from unmemorize._prompts import Prompt, no_wordings
from unmemorize._words import counted
from unmemorize.audit._attack import Attack, Target, is_imageless
from unmemorize.audit._settings import ArmName, AuditSettings
from unmemorize.audit._targets import controls_of, joined, refuse_controls_among, units_of
from unmemorize.generation import Edit, generate_each
from unmemorize.metrics import Descriptor
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

    Raises:
        AuditError: there are twins, and controls that are not those of this package.
    """

    edit: Edit | None
    captions: tuple[str, ...]
    descriptor: Descriptor
    controls: tuple[Path, ...] = ()
    shipped: bool = False
    twins: tuple[Twin, ...] = ()
    seeded_by: str | None = None

    def __post_init__(self) -> None:
        if self.twins and self.controls and not self.shipped:
            raise AuditError(
                "--controls does not go with --twin: the same images in a model that never saw "
                "them are compared with, and no others. Leave one of them out."
            )

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
        indices: the position of each image: that of its prompt, or any number. Targets of one
            index are one image with several captions.
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


def arms_of(
    model: Model,
    inputs: AuditInputs,
    targets: Sequence[Target],
    settings: AuditSettings,
    ordinary: Sequence[Target],
) -> Iterator[Arm]:
    """Yield the arms of an audit, the audited one first.

    The never-trained arm attacks the same images in twins where there are some. Otherwise it
    attacks other images in the edited model, from the captions of the audited ones.

    Args:
        model: the unedited model.
        inputs: the edit, and what to compare with.
        targets: the audited images. Those that are the same image have one index.
        settings: which arms there are.
        ordinary: see `ordinary_targets`.
    """
    audited, units = tuple(targets), units_of(targets)
    yield Arm("edited", "", model, inputs.edit, audited, units)
    if inputs.edit is not None and "unedited" in settings.arms:
        yield Arm("unedited", "", model, None, audited, units)
    if "never-trained" in settings.arms:
        yield from _never_trained(model, inputs, audited, units)
    random = None
    if inputs.edit is not None and "random" in settings.arms:
        random = control_edit(inputs.edit, model)
    if random is not None:
        yield Arm("random", "", model, random, audited, units)
    if ordinary and "ordinary" in settings.arms:
        yield Arm("ordinary", "", model, inputs.edit, tuple(ordinary), tuple(range(len(ordinary))))


def arms_for(attack: Attack, arms: Sequence[Arm], model: Model) -> list[Arm]:
    """Leave out never-trained arms that say nothing about an attack without an image.

    Such an attack brings back what the unedited model draws, which is none of the other images. A
    twin must have the unedited model beside it, which it can only load again.
    """
    if not is_imageless(attack):
        return list(arms)
    return [
        arm
        for arm in arms
        if arm.name != "never-trained" or (arm.model is not model and model.loading is not None)
    ]


def _never_trained(
    model: Model, inputs: AuditInputs, audited: tuple[Target, ...], units: tuple[int, ...]
) -> Iterator[Arm]:
    """Yield the images in twins, or else other images in the edited model."""
    for number, twin in enumerate(inputs.twins):
        some = tuple(audited[index] for index in twin.prompts)
        indices = tuple(units[index] for index in twin.prompts)
        yield Arm("never-trained", f"-{number + 1}", twin.model, None, some, indices)
    if inputs.controls and not inputs.twins:
        captions = [[audited[index].prompt for index in same] for same in joined(units)]
        others, indices = controls_of(inputs.controls, captions)
        yield Arm("never-trained", "", model, inputs.edit, others, indices)


def takes_whole(inputs: AuditInputs, settings: AuditSettings) -> bool:
    """Tell whether templates are compared as whole images, see `targets_of`.

    They are where other images are the never-trained ones, which have no layout to compare.
    """
    return bool(inputs.controls) and not inputs.twins and "never-trained" in settings.arms


def ordinary_captions(
    captions: Sequence[str], prompts: Sequence[Prompt], settings: AuditSettings
) -> tuple[str, ...]:
    """Return the captions of the arm of ordinary images; those that are audited are none."""
    if "ordinary" not in settings.arms:
        return ()
    return no_wordings(dict.fromkeys(captions), prompts)[: settings.ordinary_images]


def ordinary_targets(
    model: Model, captions: Sequence[str], prompts: Sequence[Prompt], settings: AuditSettings
) -> tuple[Target, ...]:
    """Draw images of ordinary captions by the unedited model, as targets."""
    texts = ordinary_captions(captions, prompts, settings)
    if not texts:
        return ()
    seeds = [derived_seed("audit ordinary", text) for text in texts]
    one = replace(settings.generation, images=1)
    images = generate_each(model, texts, [None] * len(texts), settings=one, seeds=seeds)
    return tuple(
        Target(key=hash_texts(["ordinary", text])[:16], prompt=text, images=(image,))
        for text, (image,) in zip(texts, images, strict=True)
    )


def edit_text(edit: Edit | None) -> str:
    """Return an edit as one line of text; empty for none."""
    return "" if edit is None else json.dumps(edit.to_json(), sort_keys=True)


def hash_of_images(prompts: Sequence[Prompt]) -> str:
    """Return a hash of the training images of all prompts, for a manifest.

    The hash of the prompts in a manifest holds only the names of these files.
    """
    return hash_texts(hash_of_file(path) for prompt in prompts for path in prompt.images)


def refuse_unfit(model: Model, prompts: Sequence[Prompt], inputs: AuditInputs) -> None:
    """Refuse what cannot be compared with, before any work.

    Raises:
        AuditError: there are too few ordinary captions, a twin is the audited model, an audited
            image is among the controls, or a control is there twice.
    """
    refuse_few_captions(inputs.captions)
    for twin in inputs.twins:
        if twin.model.fingerprint == model.fingerprint:
            raise AuditError(
                f"{twin.model.name}: this twin is the audited model itself, which was trained on "
                "the images. Name a model that never saw them, or leave --twin out."
            )
    refuse_controls_among([path for prompt in prompts for path in prompt.images], inputs.controls)


def refuse_few_captions(captions: Sequence[str]) -> None:
    """Refuse ordinary captions that are too few for `Bench.scale`, before any work.

    Raises:
        AuditError: there are.
    """
    count = len(set(captions))
    if count < 2:
        raise AuditError(
            f"{counted(count, 'different ordinary caption')}: the distance between 2 is the unit "
            "in which attacks on embeddings are measured. Give more; some hundred are usual."
        )
