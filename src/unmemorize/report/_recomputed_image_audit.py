"""The numbers of an audit of images, computed once more from its records alone: JSON lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from statistics import median
from typing import Any

from unmemorize.report._recomputed_values import Files, Recomputed, parsed, records_of

_RESULT = "images.json"
_COPY = 0.5
"""Similarity above which an image counts as copied."""


def recompute_image_audit(files: Files) -> Recomputed:
    """Compute what follows from the records of an audit of images.

    Raises:
        KeyError, ValueError: a record is missing or damaged.
    """
    records = _Records(files)
    shared, digests = records.shared(), enumerate(records.hashes)
    return Recomputed(
        numbers=records.numbers() | shared,
        rows="findings",
        headline=records.headline(),
        labels={
            f"image-{index}": ("tag warn" if found else "tag", records.verdict(index))
            for index, found in enumerate(records.found)
        },
        references=[
            (finding["image"]["path"], digest)
            for finding, digest in zip(records.result["findings"], records.hashes, strict=True)
        ],
        named_by="manifest.json",
        repeated={
            _RESULT: {f"findings.{index}.image.sha256": each for index, each in digests} | shared
        },
    )


@dataclass(frozen=True)
class _Course:
    """What the attack reached on one image.

    Args:
        scores: at each budget.
        work: denoiser samples up to each budget.
        first: the place of the first budget at which it is copied; None for never.
        closest: the file with the most similar image.
    """

    scores: Sequence[float]
    work: Sequence[int]
    first: int | None
    closest: str

    @classmethod
    def of(cls, trials: Sequence[dict[str, Any]], budgets: int) -> _Course:
        """Combine the records of one image: all budgets of a trial, then those of the next."""
        at = [trials[place::budgets] for place in range(budgets)]
        medians = [max(median(trial["scores"]) for trial in some) for some in at]
        scores = list(accumulate(medians, max))
        return cls(
            scores=scores,
            work=[sum(trial["samples"] for trial in some) for some in at],
            first=next((place for place, score in enumerate(scores) if score > _COPY), None),
            closest=max(trials, key=lambda trial: max(trial["scores"]))["image"],
        )

    @property
    def ease(self) -> tuple[int, float]:
        """How easily the image comes back: how early, then how closely."""
        if self.first is None:
            return 0, self.scores[-1]
        return len(self.scores) - self.first, self.scores[self.first]


class _Records:
    """The records of an audit of images."""

    def __init__(self, files: Files) -> None:
        made_of = parsed("manifest.json", files["manifest.json"])["settings"]
        self.files, self.settings = files, made_of["settings"]
        self.result = parsed(_RESULT, files[_RESULT])
        self.hashes: list[str] = made_of["images"]
        self.rate = float(made_of["rate"])
        self.budgets: list[int] = self.settings["steps"]
        self.images = self.courses("edited", len(self.hashes))
        self.controls = self.courses("never-trained", len(made_of["controls"]))
        self.smallest = Fraction(1, 1 + len(self.controls))
        self.needed = math.ceil(len(self.images) * self.smallest / Fraction(str(self.rate)))
        self.p = [self.rank(image) * self.smallest for image in self.images]
        self.adjusted = _adjusted(self.p)
        self.found = [float(round(each, 12)) <= self.rate for each in self.adjusted]

    def courses(self, arm: str, count: int) -> list[_Course]:
        """Return what the attack reached on each image of an arm.

        Raises:
            ValueError: a record is missing, or is not of the image and the budget it is due for.
        """
        (level,) = self.settings["levels"]
        kind, budgets = f"{arm}-{level}", len(self.budgets)
        each = len(self.settings["starts"]) * self.settings["seeds"] * budgets
        records = records_of(self.files, kind)
        if len(records) != count * each:
            raise ValueError(f"{kind}: {len(records)} records in place of {count * each}")
        for number, (index, record) in enumerate(records.items()):
            due = (number, number // each, self.budgets[number % budgets])
            if (index, record["target"], record["budget"]) != due:
                raise ValueError(f"{kind}: record {index} is not of the image and the budget due")
        trials = list(records.values())
        return [
            _Course.of(trials[start : start + each], budgets)
            for start in range(0, len(trials), each)
        ]

    def rank(self, image: _Course) -> int:
        """Return the rank of an image among the controls, which come first where they tie."""
        return 1 + sum(control.ease >= image.ease for control in self.controls)

    def numbers(self) -> dict[str, Any]:
        """Return the numbers that the report alone holds."""
        values: dict[str, Any] = {
            "schema": "unmemorize.image-report/1",
            "images": len(self.images),
            "found": sum(self.found),
            "ranks": self.ranks(),
        }
        for place, budget in enumerate(self.budgets):
            values[f"copied.{place}.budget"] = budget
            for name, courses in (("images", self.images), ("controls", self.controls)):
                copied = sum(course.scores[place] > _COPY for course in courses)
                values[f"copied.{place}.{name}"] = copied
        for index, digest in enumerate(self.hashes):
            values |= {
                f"findings.{index}.index": index,
                f"findings.{index}.sha256": digest,
                f"findings.{index}.verdict": self.verdict(index),
            }
        return values

    def shared(self) -> dict[str, Any]:
        """Return the numbers that both the report and the result of the audit hold."""
        values: dict[str, Any] = {
            "never_trained": self.result["never_trained"],
            "controls": len(self.controls),
            "smallest_p": float(self.smallest),
            "needed": self.needed,
            "rate": self.rate,
        }
        for index, image in enumerate(self.images):
            first = image.first
            own = {
                "file": self.result["findings"][index]["file"],
                "found": self.found[index],
                "copied_at": None if first is None else self.budgets[first],
                "work": None if first is None else image.work[first],
                "score": image.scores[-1],
                "p": float(self.p[index]),
                "adjusted": float(self.adjusted[index]),
                "closest": image.closest,
            }
            values |= {f"findings.{index}.{name}": value for name, value in own.items()}
        return values

    def verdict(self, index: int) -> str:
        """Say whether an image is found, how soon it was copied, and its p-values."""
        images, first = len(self.images), self.images[index].first
        said = "found" if self.found[index] else "not found"
        if self.needed > images:
            said = "too few controls"
        soon = "never copied" if first is None else f"copied at {self.budgets[first]} steps"
        verdict = f"{said}: {soon}, p = {float(self.p[index]):.3g}"
        if images == 1:
            return verdict
        return f"{verdict} ({float(self.adjusted[index]):.3g} for all {images} images together)"

    def ranks(self) -> str:
        """Say what so many controls can show at best."""
        images, controls = len(self.images), len(self.controls)
        number = "1 control" if controls == 1 else f"{controls} controls"
        said = f"{number}: the smallest possible p is {float(self.smallest):.3g}. "
        if self.needed > images:
            among = "1 image" if images == 1 else f"{images} images"
            return (
                f"{said}At a false discovery rate of {self.rate:g}, nothing can be found among "
                f"{among}. Give more controls with --controls."
            )
        if images == 1:
            return f"{said}The image is found at p = {self.rate:g} or less."
        return (
            f"{said}At a false discovery rate of {self.rate:g}, at least {self.needed} of {images} "
            "images must reach it before any is found."
        )

    def headline(self) -> str:
        """Return the sentence on what came back."""
        images, found = len(self.images), sum(self.found)
        if self.needed > images:
            which = "the image" if images == 1 else f"any of {images} images"
            return f"Too few controls to find {which}"
        if images == 1:
            who = "The image comes back" if found else "The image does not come back"
        else:
            who = f"{found or 'None'} of {images} images come{'s' if found < 2 else ''} back"
        return f"{who} more easily than images that were not trained on"


def _adjusted(p_values: Sequence[Fraction]) -> list[Fraction]:
    """Return p-values adjusted by Benjamini and Hochberg (1995)."""
    adjusted, lowest = list(p_values), Fraction(1)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank in range(len(order), 0, -1):
        index = order[rank - 1]
        lowest = min(lowest, p_values[index] * len(order) / rank)
        adjusted[index] = lowest
    return adjusted
