"""The captions of general images: their grammar, and which of them no training ever sees.

Each concept is never shown in training with four of the colours, and a fifth of all pairs of
concepts never share a picture. Captions of these make the calibration and test splits, so they
are certainly unmemorized although every word in them is known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.concepts import COLOURS, article, noun_phrase

Layout = Literal["centre", "small", "large", "apart", "side by side", "stacked"]
Split = Literal["train", "calibration", "test"]


@dataclass(frozen=True)
class Template:
    """A form of caption; it fixes what the picture must look like."""

    text: str
    """With the fields ``one``, ``two``, ``background`` and ``card``."""
    layout: Layout

    @property
    def names_colour(self) -> bool:
        """Whether captions of this form say the colour of the background."""
        return "{background}" in self.text or "{card}" in self.text


SINGLE = (
    Template("{one}", "centre"),
    Template("a picture of {one}", "centre"),
    Template("{one} on {background}", "centre"),
    Template("{card} with {one}", "centre"),
    Template("{one} on {background}", "small"),
    Template("{one} on {background}", "large"),
)
DOUBLE = (
    Template("{one} and {two} on {background}", "apart"),
    Template("{one} next to {two}", "side by side"),
    Template("{one} next to {two} on {background}", "side by side"),
    Template("{one} above {two} on {background}", "stacked"),
)
DOUBLE_SHARE = 0.3
"""How many of the general images show two things."""
HELD_OUT_COLOURS = 2
"""Colours of each concept that are kept for calibration, and as many again for tests."""
CALIBRATION, TEST = (1200, 400), (750, 350)
"""How many captions of one thing and of two things the splits have."""


@dataclass(frozen=True)
class Scene:
    """What a general image shows, and how its caption says so."""

    template: Template
    names: tuple[str, ...]
    colour: str

    @property
    def caption(self) -> str:
        """The caption of the scene."""
        size = self.template.layout if self.template.layout in ("small", "large") else ""
        phrases = [noun_phrase(name, size) for name in self.names]
        colour = f"{article(self.colour)} {self.colour}"
        fields = {"background": f"{colour} background", "card": f"{colour} card"}
        return self.template.text.format(one=phrases[0], two=phrases[-1], **fields)


class Grammar:
    """All scenes over some concepts, split into those for training, calibration and tests.

    Args:
        names: the concepts.
        reserved: (concept, colour) pairs that must stay in training.
    """

    def __init__(
        self, names: Sequence[str], reserved: Collection[tuple[str, str]] = frozenset()
    ) -> None:
        self.names = tuple(names)
        self._index = {name: index for index, name in enumerate(names)}
        self._held_out: dict[str, tuple[str, ...]] = {}
        for index, name in enumerate(names):
            order = np.random.default_rng([11, index]).permutation(list(COLOURS)).tolist()
            free = [colour for colour in order if (name, colour) not in reserved]
            self._held_out[name] = tuple(free[: 2 * HELD_OUT_COLOURS])

    def colours(self, name: str, split: Split) -> tuple[str, ...]:
        """The colours that a concept is shown on in a split."""
        held_out = self._held_out[name]
        if split == "calibration":
            return held_out[:HELD_OUT_COLOURS]
        if split == "test":
            return held_out[HELD_OUT_COLOURS:]
        return tuple(colour for colour in COLOURS if colour not in held_out)

    def pair_split(self, one: str, two: str) -> Split:
        """The only split in which two concepts share a picture, in either order."""
        splits: dict[int, Split] = {0: "calibration", 9: "test"}
        return splits.get((self._index[one] + self._index[two]) % 10, "train")

    def draw(self, rng: np.random.Generator) -> Scene:
        """A random scene for training."""
        if rng.random() < DOUBLE_SHARE:
            return self._draw_double("train", rng)
        template = SINGLE[rng.integers(len(SINGLE))]
        name = self.names[rng.integers(len(self.names))]
        colours = self.colours(name, "train")
        return Scene(template, (name,), colours[rng.integers(len(colours))])

    def held_out(self, split: Literal["calibration", "test"]) -> tuple[str, ...]:
        """The captions of a split, always the same ones, in a mixed order."""
        rng = np.random.default_rng([12, split == "test"])
        singles, doubles = CALIBRATION if split == "calibration" else TEST
        coloured = [template for template in SINGLE if template.names_colour]
        captions = [
            Scene(template, (name,), colour).caption
            for name in self.names
            for colour in self.colours(name, split)
            for template in coloured
        ]
        chosen = set(rng.permutation(sorted(captions))[:singles].tolist())
        while len(chosen) < min(singles, len(captions)) + doubles:
            chosen.add(self._draw_double(split, rng).caption)
        ordered: list[str] = rng.permutation(sorted(chosen)).tolist()
        return tuple(ordered)

    def _draw_double(self, split: Split, rng: np.random.Generator) -> Scene:
        while True:
            one, two = (
                self.names[index] for index in rng.choice(len(self.names), 2, replace=False)
            )
            if self.pair_split(one, two) == split:
                break
        allowed = [
            colour
            for colour in COLOURS
            if all(colour in self.colours(name, "train") for name in (one, two))
        ]
        template = DOUBLE[rng.integers(len(DOUBLE))]
        return Scene(template, (one, two), allowed[rng.integers(len(allowed))])
