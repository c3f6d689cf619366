"""What was planted in the bundled model, and which captions it has not memorized."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from unmemorize._bundled import bundled_captions, existing
from unmemorize._prompts import Prompt
from unmemorize.neurons import Neurons
from unmemorize.testbed._layout import (
    PLANTED,
    PLANTED_IMAGES,
    UNUSED,
    UNUSED_IMAGES,
)
from unmemorize.testbed._planted import Half, Mode


@dataclass(frozen=True)
class Planted:
    """A planted caption with its ground truth.

    Args:
        prompt: the caption with its kind and training images. A TM caption has a few of the images
            that were drawn for it.
        mode: "natural" (planted by repetition), "memory" (through memory neurons), "both", or
            "rare" (by a fraction of the repetitions).
        dose: how often it was seen in training, relative to a full plant.
        neurons: its memory neurons. Natural and rare plants have none, as nobody knows their
            neurons.
        source: where the training image comes from.
        licence: the licence of the training image.
        aligned: whether it is an ordinary caption tied to one particular picture of what it says.
        half: the half of the plants that it belongs to; see `twin`.
        paraphrases: three other wordings that the model was never trained on.
        mask: an image file, white where pixels are copied. Only TM and aligned plants have one.
        shares: the name of the memory neuron that it has in common with other captions.
    """

    prompt: Prompt
    mode: Mode
    dose: float
    neurons: Neurons
    source: str
    licence: str
    aligned: bool
    half: Half
    paraphrases: tuple[str, ...]
    mask: Path | None
    shares: str | None

    @property
    def kind(self) -> str:
        """What tables call it: "VM", "TM" or "aligned"."""
        return "aligned" if self.aligned else str(self.prompt.kind)


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
    """Read every planted caption with its ground truth."""
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
            row["aligned"],
            row["half"],
            tuple(row["paraphrases"]),
            PLANTED_IMAGES / row["mask"] if row["mask"] else None,
            row["shares"],
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
    """Read general captions, none of them memorized.

    Args:
        split: "train" captions were seen in training, each time with another image. The others were
            held out for calibration or for tests.
    """
    return bundled_captions(split)
