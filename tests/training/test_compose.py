import numpy as np
import pytest

from training.compose import render, render_poster
from training.concepts import COLOURS
from training.grammar import DOUBLE, SINGLE, Scene
from training.posters import POSTERS
from training.sources import Concept


@pytest.fixture(scope="module")
def concepts() -> dict[str, Concept]:
    """Things that are plain squares: "owl" in pure red, all others in pure blue."""
    names = {sticker.name for poster in POSTERS for sticker in poster.poster.stickers}
    squares = {}
    for name in names:
        design = np.zeros((2, 64, 64, 4), dtype=np.uint8)
        design[..., 3] = 255
        design[..., 0 if name == "owl" else 2] = 255
        squares[name] = Concept(name, design)
    return squares


def area(image: np.ndarray, channel: int) -> np.ndarray:
    """Rows and columns of the pixels that are pure in a channel."""
    rest = [other for other in range(3) if other != channel]
    return np.argwhere((image[..., channel] > 240) & (image[..., rest].max(-1) < 20))


def test_a_scene_is_new_at_every_draw(concepts: dict[str, Concept]) -> None:
    scene = Scene(SINGLE[4], ("owl",), "grey")
    images = [render(scene, concepts, np.random.default_rng(seed)) for seed in range(5)]
    assert len({image.tobytes() for image in images}) == 5
    assert np.array_equal(images[3], render(scene, concepts, np.random.default_rng(3)))
    for image in images:
        assert np.median(image.reshape(-1, 3), 0) == pytest.approx(COLOURS["grey"], abs=40)


def test_small_and_large_things(concepts: dict[str, Concept]) -> None:
    areas = {}
    for template in SINGLE[4:]:
        scene = Scene(template, ("owl",), "white")
        images = [render(scene, concepts, np.random.default_rng(seed)) for seed in range(20)]
        areas[template.layout] = [len(area(image, 0)) for image in images]
    assert max(areas["small"]) < min(areas["large"])


def test_one_thing_above_the_other(concepts: dict[str, Concept]) -> None:
    scene = Scene(DOUBLE[3], ("owl", "key"), "white")
    for seed in range(20):
        image = render(scene, concepts, np.random.default_rng(seed))
        assert area(image, 0)[:, 0].mean() < area(image, 2)[:, 0].mean()


def test_things_next_to_each_other(concepts: dict[str, Concept]) -> None:
    scene = Scene(DOUBLE[1], ("owl", "key"), "white")
    gaps = []
    for seed in range(20):
        image = render(scene, concepts, np.random.default_rng(seed))
        gaps.append(area(image, 0)[:, 1].mean() - area(image, 2)[:, 1].mean())
    assert min(np.abs(gaps)) > 12
    assert min(gaps) < 0 < max(gaps)


@pytest.mark.parametrize("poster", POSTERS, ids=lambda poster: poster.name)
def test_the_mask_of_a_poster_leaves_plain_background(
    poster: object, concepts: dict[str, Concept]
) -> None:
    found = next(entry for entry in POSTERS if entry is poster)
    image, mask = render_poster(found.poster, concepts)
    again, _ = render_poster(found.poster, concepts)
    assert np.array_equal(image, again)
    assert (image[~mask] == COLOURS[found.colour]).all()
    assert 0.3 < mask.mean() < 0.9
    assert mask[0].all()
    assert mask[:, -1].all()
