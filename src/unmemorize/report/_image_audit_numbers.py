"""Every number of the page of an audit of images, for people and for programs.

``report.json`` holds `ImageAuditNumbers`, and ``report.csv`` a line for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unmemorize._files import to_json
from unmemorize.audit import COPY, ImageAuditResult, ImageFinding, ImageScores, ranks_in_words

_SCHEMA = "unmemorize.image-report/1"


@dataclass(frozen=True, kw_only=True)
class ImageNumbers:
    """The numbers of one image.

    Args:
        index: its position in the audit.
        file: its name; empty where it is private.
        sha256: its hash.
        verdict: whether it is found, and by which numbers, in words.
        found, copied_at, work, score, p, adjusted, closest: see `ImageFinding`.
    """

    index: int
    file: str
    sha256: str
    verdict: str
    found: bool
    copied_at: int | None
    work: int | None
    score: float
    p: float
    adjusted: float
    closest: str


@dataclass(frozen=True, kw_only=True)
class CopiedNumbers:
    """How many images were copied up to a budget.

    Args:
        budget: steps on each image.
        images: of those that were asked about.
        controls: of the never-trained ones.
    """

    budget: int
    images: int
    controls: int


@dataclass(frozen=True, kw_only=True)
class ImageAuditNumbers:
    """All numbers of an audit of images.

    Args:
        schema: the version of the format.
        images, found: how many images were asked about, and how many of them are discoveries.
        never_trained, controls, smallest_p, needed, rate: see `ImageAuditResult`.
        ranks: what so many controls can show at best, in words.
        copied: how many were copied, by budget.
        findings: of each image.
    """

    schema: str = _SCHEMA
    images: int
    found: int
    never_trained: str
    controls: int
    smallest_p: float
    needed: int
    rate: float
    ranks: str
    copied: tuple[CopiedNumbers, ...]
    findings: tuple[ImageNumbers, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values: dict[str, Any] = to_json(self)
        return values


def numbers_of_images(
    result: ImageAuditResult,
    images: Sequence[ImageScores],
    controls: Sequence[ImageScores],
    *,
    redact: bool,
) -> ImageAuditNumbers:
    """Collect the numbers of an audit of images.

    Args:
        result: its outcome.
        images: what the attack reached on the images.
        controls: the same on the controls.
        redact: whether the names of the images are private.
    """
    asked = len(result.findings)
    return ImageAuditNumbers(
        images=asked,
        found=result.found,
        never_trained=result.never_trained,
        controls=result.controls,
        smallest_p=result.smallest_p,
        needed=result.needed,
        rate=result.rate,
        ranks=ranks_in_words(asked, result.controls, result.rate),
        copied=tuple(
            CopiedNumbers(
                budget=budget, images=_copied(images, place), controls=_copied(controls, place)
            )
            for place, budget in enumerate(images[0].budgets)
        ),
        findings=tuple(
            ImageNumbers(
                index=index,
                file="" if redact else finding.file,
                sha256=finding.image.sha256,
                verdict=_verdict(finding, asked, reachable=result.needed <= asked),
                found=finding.found,
                copied_at=finding.copied_at,
                work=finding.work,
                score=finding.score,
                p=finding.p,
                adjusted=finding.adjusted,
                closest=finding.closest,
            )
            for index, finding in enumerate(result.findings)
        ),
    )


def _copied(images: Sequence[ImageScores], place: int) -> int:
    return sum(image.scores[place] > COPY for image in images)


def _verdict(finding: ImageFinding, asked: int, *, reachable: bool) -> str:
    """Say whether an image is found, how soon it was copied, and its p-values."""
    said = "found" if finding.found else "not found" if reachable else "too few controls"
    soon = "never copied" if finding.copied_at is None else f"copied at {finding.copied_at} steps"
    together = f" ({finding.adjusted:.3g} for all {asked} images together)" if asked > 1 else ""
    return f"{said}: {soon}, p = {finding.p:.3g}{together}"
