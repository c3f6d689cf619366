"""The page of an audit of images: what came back, how easily, and what that says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from unmemorize.audit import (
    COPY,
    ImageAuditResult,
    ImageAuditRun,
    ImageFinding,
    ImageScores,
    read_image_scores,
)
from unmemorize.metrics import read_image
from unmemorize.report._drawing import COOL, HOT, INK, new_figure, plotting, to_svg
from unmemorize.report._figures import Figures
from unmemorize.report._image_audit_numbers import numbers_of_images
from unmemorize.report._numbers import NUMBERS, TABLE, csv_text, json_text
from unmemorize.report._page import REPORT, render
from unmemorize.report._pictures import Pictures
from unmemorize.report._provenance import steps_of
from unmemorize.report._wall import Picture
from unmemorize.runs import Run, hash_of_file

_PICTURES = Pictures(256, 85, 1)


@dataclass(frozen=True)
class FoundImage:
    """One image on the page.

    Args:
        index: its position in the audit.
        finding: what is said about it.
        image: the image; None where it may not be shown, or where `missing` says why not.
        closest: the most similar image that the attack found; None where it may not be shown.
        missing: why the image cannot be shown.
    """

    index: int
    finding: ImageFinding
    image: Picture | None = None
    closest: Picture | None = None
    missing: str = ""


def write_image_audit(run: Run, *, redact: bool = False) -> Path:
    """Write the page of a finished audit of images, and its numbers as JSON and CSV beside it.

    Args:
        run: the audit.
        redact: whether the images are private. They are left out then, with their names, what the
            attack found, and the command.

    Returns:
        The path of the page.

    Raises:
        RunError: the audit is not finished, or a record is damaged.
        MetricError: an image that the audit made is missing or damaged.
    """
    result, made_of = ImageAuditResult.load(run), run.settings(ImageAuditRun)
    images, controls = read_image_scores(run)
    numbers = numbers_of_images(result, images, controls, redact=redact)
    with plotting():
        plot = Markup(to_svg(plot_course(result.findings, images, controls)))
    found = [
        _found(run, index, finding, redact=redact) for index, finding in enumerate(result.findings)
    ]
    page = render(
        "image-audit.html.j2",
        manifest=run.manifest,
        result=result,
        numbers=numbers,
        n=Figures(numbers.to_json()),
        found=sorted(found, key=lambda image: (image.finding.p, -image.finding.score)),
        level=COPY,
        edited=bool(made_of.edit),
        plot=plot,
        steps=list(steps_of(run)),
        redacted=redact,
    )
    run.write(NUMBERS, json_text(numbers.to_json()))
    run.write(TABLE, csv_text(numbers.findings))
    return run.write(REPORT, page)


def plot_course(
    findings: Sequence[ImageFinding],
    images: Sequence[ImageScores],
    controls: Sequence[ImageScores],
) -> Figure:
    """Draw the similarity that the attack has reached at each budget, a line for each image.

    Controls are grey and thin, images that are found red, others blue.
    """
    figure, axes = new_figure(3.2)
    budgets = images[0].budgets
    places = range(len(budgets))
    for control in controls:
        axes.plot(places, control.scores, color=INK, linewidth=0.8, alpha=0.55)
    for finding, image in zip(findings, images, strict=True):
        colour = HOT if finding.found else COOL
        axes.plot(places, image.scores, color=colour, linewidth=2, marker="o", markersize=4)
    axes.axhline(COPY, color=INK, linestyle="--", linewidth=1.2)
    axes.set_xticks(places, list(map(str, budgets)))
    axes.set_xlabel("steps of the attack")
    axes.set_ylabel("similarity to the image")
    return figure


def _found(run: Run, index: int, finding: ImageFinding, *, redact: bool) -> FoundImage:
    if redact:
        return FoundImage(index, finding)
    closest = Picture(
        _PICTURES.url(read_image(run.folder / finding.closest)),
        f"closest image found to {finding.file}",
        finding.score,
        finding.copied_at is not None,
        finding.closest,
    )
    file = finding.image.locate(run.folder)
    now = hash_of_file(file)
    if now != finding.image.sha256:
        missing = "the file has changed since" if now else "no longer where it was"
        return FoundImage(index, finding, None, closest, missing)
    image = Picture(_PICTURES.url(read_image(file)), finding.file)
    return FoundImage(index, finding, image, closest)
