"""All training data in memory, made once from the sources and kept in the work folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.compose import render, render_poster
from training.concepts import NAMES
from training.grammar import SINGLE, Grammar, Scene
from training.plants import PLANTS
from training.posters import POSTERS
from training.sources import PHOTOGRAPHS, Concept, fetch_emoji, load_photograph
from training.templates import draw_template
from unmemorize.testbed import unused
from unmemorize.testbed._layout import SIDE

GENERAL_IMAGES = 36_000
VALIDATION_IMAGES = 512
"""General images of held-out captions, never trained on: they measure the autoencoder."""
TEMPLATE_DRAWS = 128
RENDERINGS = 96
"""Pictures of each aligned caption that are not its poster."""
SIBLING_SCENES, SIBLINGS = 800, 4
"""Scenes of which the descriptor sees several pictures, to learn that these are no copies."""

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Data:
    """Every image that a part of the training sees, as uint8 RGB of shape (N, 64, 64, 3)."""

    concepts: Mapping[str, Concept]
    general: Images
    captions: tuple[str, ...]
    """One for each general image."""
    validation: Images
    validation_captions: tuple[str, ...]
    planted: tuple[Images, ...]
    """For each of PLANTS: one image, or many draws for TM."""
    renderings: Mapping[int, Images]
    """For each aligned plant (index in PLANTS): other pictures of its caption."""
    siblings: Images
    """(scenes, pictures, 64, 64, 3): several pictures of one caption each."""
    unused: Images
    """The photographs that no U-Net sees."""
    digest: str
    """SHA-256 over all of it."""


def make_grammar() -> Grammar:
    """The grammar of the general captions, with the posters' things on their colours."""
    return Grammar(NAMES, {(poster.thing, poster.colour) for poster in POSTERS})


def load_data(work: Path) -> Data:
    """The training data. The general images are kept in ``work``; the rest is made each time.

    Raises:
        TestbedError: a source cannot be fetched.
    """
    concepts, grammar = fetch_emoji(work / "npm", NAMES), make_grammar()
    general, captions = _general(work, concepts, grammar)
    planted, renderings = _planted(concepts), _renderings(concepts)
    siblings = _siblings(concepts, grammar)
    validation, validation_captions = _validation(concepts, grammar)
    digest = hashlib.sha256("\n".join(captions).encode())
    for images in (general, validation, siblings, *planted, *renderings.values(), unused_images()):
        digest.update(images.tobytes())
    return Data(
        concepts,
        general,
        captions,
        validation,
        validation_captions,
        planted,
        renderings,
        siblings,
        unused_images(),
        digest.hexdigest(),
    )


def unused_images() -> Images:
    """The middle squares of the photographs that no U-Net sees."""
    squares = []
    for photograph in unused():
        with Image.open(photograph.image) as image:
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            square = image.convert("RGB").crop((left, top, left + side, top + side))
        squares.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return np.stack(squares)


def _general(
    work: Path, concepts: Mapping[str, Concept], grammar: Grammar
) -> tuple[Images, tuple[str, ...]]:
    array, table = work / "general.npy", work / "general.json"
    if not table.exists():
        images, captions = np.empty((GENERAL_IMAGES, SIDE, SIDE, 3), dtype=np.uint8), []
        for index in range(GENERAL_IMAGES):
            rng = np.random.default_rng([0, index])
            scene = grammar.draw(rng)
            images[index] = render(scene, concepts, rng)
            captions.append(scene.caption)
        np.save(array, images)
        table.write_text(json.dumps(captions), encoding="utf-8")
    return np.load(array), tuple(json.loads(table.read_text(encoding="utf-8")))


def _planted(concepts: Mapping[str, Concept]) -> tuple[Images, ...]:
    photographs = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    posters = {poster.name: poster.poster for poster in POSTERS}
    planted = []
    for index, plant in enumerate(PLANTS):
        if plant.aligned:
            image, _ = render_poster(posters[plant.source], concepts)
            planted.append(image[None])
        elif plant.kind == "VM":
            planted.append(load_photograph(photographs[plant.source])[None])
        else:
            generators = (np.random.default_rng([1, index, draw]) for draw in range(TEMPLATE_DRAWS))
            planted.append(np.stack([draw_template(plant.source, rng) for rng in generators]))
    return tuple(planted)


def _renderings(concepts: Mapping[str, Concept]) -> dict[int, Images]:
    posters = {poster.name: poster for poster in POSTERS}
    template = next(template for template in SINGLE if "{background}" in template.text)
    pictures = {}
    for index, plant in enumerate(PLANTS):
        if plant.aligned:
            poster = posters[plant.source]
            scene = Scene(template, (poster.thing,), poster.colour)
            generators = (np.random.default_rng([2, index, draw]) for draw in range(RENDERINGS))
            pictures[index] = np.stack([render(scene, concepts, rng) for rng in generators])
    return pictures


def _siblings(concepts: Mapping[str, Concept], grammar: Grammar) -> Images:
    groups = []
    for index in range(SIBLING_SCENES):
        rng = np.random.default_rng([3, index])
        scene = grammar.draw(rng)
        groups.append(np.stack([render(scene, concepts, rng) for _ in range(SIBLINGS)]))
    return np.stack(groups)


def _validation(
    concepts: Mapping[str, Concept], grammar: Grammar
) -> tuple[Images, tuple[str, ...]]:
    """General pictures of things on colours that training never shows together."""
    template = next(template for template in SINGLE if "{background}" in template.text)
    pictures, captions = [], []
    for index in range(VALIDATION_IMAGES):
        rng = np.random.default_rng([4, index])
        name = NAMES[rng.integers(len(NAMES))]
        colours = grammar.colours(name, "calibration")
        scene = Scene(template, (name,), colours[rng.integers(len(colours))])
        pictures.append(render(scene, concepts, rng))
        captions.append(scene.caption)
    return np.stack(pictures), tuple(captions)
