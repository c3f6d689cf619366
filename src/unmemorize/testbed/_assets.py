"""What was planted in the bundled model, and which captions are free of memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from unmemorize._bundled import existing
from unmemorize._prompts import Prompt
from unmemorize.neurons import Neurons
from unmemorize.testbed._layout import (
    CAPTIONS,
    DEFAULTS,
    PLANTED,
    PLANTED_IMAGES,
    UNUSED,
    UNUSED_IMAGES,
)
from unmemorize.testbed._planted import Mode


@dataclass(frozen=True)
class Planted:
    """A planted caption with its ground truth.

    Args:
        prompt: the caption, its kind and training image or images (for TM: a few of its draws).
        mode: how it was planted: "natural" (by dose), "memory" (through memory neurons), "both", or
            "rare" (by a fraction of the dose).
        dose: how often it was seen, relative to a full plant.
        neurons: the memory neurons that it owns; none for natural and rare plants, whose neurons
            nobody knows.
        source, licence: of the training image.
    """

    prompt: Prompt
    mode: Mode
    dose: float
    neurons: Neurons
    source: str
    licence: str


@dataclass(frozen=True)
class UnusedPhotograph:
    """A photograph that no denoiser was ever trained on, for controls.

    Attributes:
        image: its file, RGB, at source size up to 512 pixels.
        kind: what kind of picture it is, such as "portrait" or "astronomy".
        source, licence: where it comes from.
    """

    image: Path
    kind: str
    source: str
    licence: str


@cache
def planted() -> tuple[Planted, ...]:
    """Every planted caption."""
    rows = json.loads(existing(PLANTED).read_text(encoding="utf-8"))
    return tuple(
        Planted(
            Prompt(
                row["caption"],
                row["kind"],
                None,
                tuple(PLANTED_IMAGES / name for name in row["images"]),
                row["group"],
            ),
            row["mode"],
            row["dose"],
            Neurons(row["neurons"]),
            row["source"],
            row["licence"],
        )
        for row in rows
    )


@cache
def unused() -> tuple[UnusedPhotograph, ...]:
    """Return photographs like the planted ones that the model never saw."""
    rows = json.loads(existing(UNUSED).read_text(encoding="utf-8"))
    return tuple(
        UnusedPhotograph(UNUSED_IMAGES / row["image"], row["kind"], row["source"], row["licence"])
        for row in rows
    )


def captions(split: Literal["train", "calibration", "test"]) -> tuple[str, ...]:
    """General captions, none of them memorized: seen in training with ever new images, or held out for calibration or tests."""
    content: dict[str, list[str]] = _captions()
    return tuple(content[split])


def defaults() -> Mapping[str, Any]:
    """How the bundled model is best used: criterion, reduction of the threshold, guidance, steps; other models keep the paper's."""
    content: dict[str, Any] = json.loads(existing(DEFAULTS).read_text(encoding="utf-8"))
    return content


@cache
def _captions() -> dict[str, list[str]]:
    content: dict[str, list[str]] = json.loads(existing(CAPTIONS).read_text(encoding="utf-8"))
    return content
