"""Image first: is this image in the weights? No caption is known.

An image is attacked from neutral starts, like images that the model was never trained on. If it
comes back at less work than these, the model knows it.

RUN/edited-L4.jsonl, RUN/never-trained-L4.jsonl   see `AttackRecord`
RUN/images.json                                   see `ImageAuditResult`
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from unmemorize._errors import AuditError
from unmemorize._files import hash_texts, to_json
from unmemorize.audit._arms import (
    Arm,
    AuditInputs,
    edit_text,
    refuse_few_captions,
)
from unmemorize.audit._attack import make_attacks
from unmemorize.audit._levels import adjusted, conformal_p, discoveries_needed, smallest_p
from unmemorize.audit._measures import ImageScores, image_scores
from unmemorize.audit._records import kind_of, read_attacks
from unmemorize.audit._settings import COPY, AuditSettings, ImageAuditRun
from unmemorize.audit._stages import AttackStages, why_impossible
from unmemorize.audit._targets import refuse_controls_among, refuse_repeated, targets_of_files
from unmemorize.engines import Execution
from unmemorize.mitigation import Announce, announced_by
from unmemorize.pipelines import Model
from unmemorize.runs import (
    ANOTHER_RUN,
    Environment,
    Inputs,
    Run,
    StoredImage,
    hash_of_file,
    read_result,
    refuse_other_model,
)

RESULT = "images.json"


@dataclass(frozen=True, kw_only=True)
class ImageFinding:
    """What is said about one image.

    Args:
        file: its name.
        image: the file, as the run names it.
        copied_at: the first budget at which the attack copied it; None for never.
        work: denoiser samples up to there; None likewise.
        score: the highest similarity that was reached.
        p: the share of never-trained images that come back at least as easily, counting this one.
        adjusted: the same for all images together (Benjamini and Hochberg).
        found: whether the image is a discovery.
        closest: the file with the most similar image that the attack found.
    """

    file: str
    image: StoredImage
    copied_at: int | None
    work: int | None
    score: float
    p: float
    adjusted: float
    found: bool
    closest: str


@dataclass(frozen=True, kw_only=True)
class ImageAuditResult:
    """The outcome of an audit of images.

    Args:
        findings: for each image.
        never_trained: what they are compared with, in words.
        controls: how many these are.
        smallest_p: the smallest p-value that so many can give.
        needed: how many images must have it before any is a discovery.
        rate: the false discovery rate.
    """

    findings: tuple[ImageFinding, ...]
    never_trained: str
    controls: int
    smallest_p: float
    needed: int
    rate: float

    @property
    def found(self) -> int:
        """How many images are discoveries."""
        return sum(finding.found for finding in self.findings)

    @classmethod
    def load(cls, run: Run | str | Path) -> ImageAuditResult:
        """Read the result of a finished audit of images.

        Raises:
            RunError: the run has none, or it is damaged.
        """
        return read_result(cls, run, RESULT, "audit", "an audit of images")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = to_json(self)
        return values


def open_image_audit(
    folder: str | Path,
    pipe: DiffusionPipeline | Model,
    images: Sequence[Path],
    inputs: AuditInputs,
    settings: AuditSettings,
    *,
    rate: float = 0.05,
    new: bool = False,
) -> Run:
    """Start an audit of images, or resume it.

    Args:
        folder: the run folder.
        pipe: a loaded pipeline.
        images: image files.
        inputs: controls, captions and descriptor.
        settings: how to attack. Levels and starts become those of `AuditSettings.image_first`.
        rate: the false discovery rate, in (0, 1).
        new: take FOLDER-2, FOLDER-3, ... where the folder holds another run.

    Raises:
        AuditError: see `refuse_unfit_images`.
        RunError: the folder holds another run.
    """
    refuse_unfit_images(images, inputs)
    hashes, controls = (tuple(map(hash_of_file, files)) for files in (images, inputs.controls))
    model = Model.of(pipe)
    made_of = ImageAuditRun(
        settings=settings.image_first(),
        rate=rate,
        images=hashes,
        edit=edit_text(inputs.edit),
        controls=controls,
        captions=hash_texts(inputs.captions),
        descriptor=inputs.descriptor.digest,
    )
    determined = Inputs(fingerprint=model.fingerprint, dtype=str(model.dtype))
    return Run.open(
        folder,
        made_of,
        inputs=determined,
        model=model.name,
        items=len(images),
        environment=Environment.of(model),
        new=new,
        way_out=ANOTHER_RUN,
    )


def refuse_unfit_images(images: Sequence[Path], inputs: AuditInputs) -> None:
    """Refuse what gives no p-values, before any work.

    Raises:
        AuditError: there is no image or no control, an image is there twice, or one is among the
            controls; or there are too few ordinary captions.
        MetricError: an image cannot be read.
    """
    refuse_few_captions(inputs.captions)
    if not images:
        raise AuditError("no image is given. Name at least one file.")
    if not inputs.controls:
        raise AuditError(
            "no control is given. Name a folder of images that the model was never trained on."
        )
    refuse_repeated(images)
    refuse_controls_among(images, inputs.controls)


def audit_images_all(
    run: Run,
    pipe: DiffusionPipeline | Model,
    images: Sequence[Path],
    inputs: AuditInputs,
    *,
    execution: Execution | None = None,
    announce: Announce | None = None,
) -> ImageAuditResult:
    """Tell which images come back more easily than never-trained ones; or resume.

    Args:
        run: what `open_image_audit` returned for these images and inputs.
        pipe: a loaded pipeline. It is left as it is.
        images: image files.
        inputs: controls, captions and descriptor, and an edit where an edited model is asked.
        execution: who does the work.
        announce: opens the progress of each stage by its title. By default all stages report to the
            callback of ``execution``, one after the other.

    Raises:
        AuditError: the attack is not possible on this model.
        UnfinishedError: other shards have not done their part yet.
        RunError: an attack fails, or the run is of another kind or model.
    """
    made_of, model = run.settings(ImageAuditRun), Model.of(pipe)
    refuse_other_model(run, model)
    settings = made_of.settings
    execution = execution or Execution()
    announce = announce or announced_by(execution)
    stages = AttackStages(run, model, settings, inputs, (), execution, announce)
    (attack,) = make_attacks(settings.levels, settings.attacks)
    if reason := why_impossible(attack, model, inputs, ()):
        raise AuditError(reason)
    asked, controls = targets_of_files(images), targets_of_files(inputs.controls)
    arms = (
        Arm("edited", "", model, inputs.edit, asked, tuple(range(len(asked)))),
        Arm("never-trained", "", model, inputs.edit, controls, tuple(range(len(controls)))),
    )
    for arm in arms:
        stages.attacked(attack, arm)
    scores, null = (stages.scores(attack, arm) for arm in arms)
    files = [StoredImage.of(path, run.folder) for path in images]
    result = judged_images(files, scores, null, inputs.never_trained, made_of.rate)
    run.write(RESULT, json.dumps(result.to_json(), indent=1) + "\n")
    return result


def image_audit_totals(run: Run) -> dict[str, int]:
    """Return how many records an audit of images will have of each kind, for `status_of`."""
    made_of = run.settings(ImageAuditRun)
    (attack,) = make_attacks(made_of.settings.levels, made_of.settings.attacks)
    trials = attack.trials(made_of.settings.starts, made_of.settings.seeds)
    each = len(trials) * len(attack.ladder(made_of.settings.steps))
    counts = {"edited": len(made_of.images), "never-trained": len(made_of.controls)}
    return {kind_of(arm, attack.name): count * each for arm, count in counts.items()}


def read_image_scores(run: Run) -> tuple[tuple[ImageScores, ...], tuple[ImageScores, ...]]:
    """Read what the attack reached on the images, and on the controls, in a finished audit.

    Raises:
        RunError: a record is damaged.
    """
    made_of = run.settings(ImageAuditRun)
    (level,) = made_of.settings.levels

    def of_arm(arm: str, hashes: Sequence[str]) -> tuple[ImageScores, ...]:
        return image_scores(read_attacks(run, kind_of(arm, level)), range(len(hashes)))

    return of_arm("edited", made_of.images), of_arm("never-trained", made_of.controls)


def judged_images(
    files: Sequence[StoredImage],
    scores: Sequence[ImageScores],
    controls: Sequence[ImageScores],
    never_trained: str,
    rate: float,
) -> ImageAuditResult:
    """Give each image its p-value, and correct them together.

    Args:
        files: the images.
        scores: of the images.
        controls: of never-trained images.
        never_trained: what these are, in words.
        rate: the false discovery rate.
    """
    null = [ease(image) for image in controls]
    p_values = [conformal_p(ease(image), null) for image in scores]
    findings = []
    for file, image, p, together in zip(files, scores, p_values, adjusted(p_values), strict=True):
        place = _first_copy(image)
        findings.append(
            ImageFinding(
                file=_printable(Path(file.absolute).name),
                image=file,
                copied_at=None if place is None else image.budgets[place],
                work=None if place is None else image.samples[place],
                score=image.scores[-1],
                p=p,
                adjusted=together,
                found=together <= rate,
                closest=image.image,
            )
        )
    return ImageAuditResult(
        findings=tuple(findings),
        never_trained=never_trained,
        controls=len(controls),
        smallest_p=smallest_p(len(controls)),
        needed=discoveries_needed(len(scores), len(controls), rate),
        rate=rate,
    )


def _printable(name: str) -> str:
    """Write out the bytes of a name that are no UTF-8: JSON keeps them, pages and tables do not."""
    return name.encode(errors="backslashreplace").decode()


def ease(image: ImageScores) -> float:
    """Return how easily an image comes back: the earlier it is copied, the higher.

    Among images that are first copied at the same budget, and among those that never are, the
    higher score counts. p-values hold for any fixed measure; this one only has to tell apart.

    Returns:
        A number in [0, 1] for an image that is never copied, and above 1 for others.
    """
    place = _first_copy(image)
    if place is None:
        return (image.scores[-1] + 1) / 2
    return len(image.scores) - place + (image.scores[place] + 1) / 2


def _first_copy(image: ImageScores) -> int | None:
    return next((place for place, score in enumerate(image.scores) if score > COPY), None)
