from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unmemorize import MitigationError, Prompt, ThresholdError
from unmemorize.mitigation import (
    Copies,
    SeedScores,
    confirm,
    confirm_prompt,
    copy_level,
    masked_layout,
    medoid,
    whole_image,
)


class ByColour:
    """Describes an image by its mean colour, of norm 1."""

    name, digest = "by colour", ""

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        colours = [np.asarray(image, dtype=np.float64).mean((0, 1)) for image in images]
        return torch.nn.functional.normalize(torch.tensor(np.array(colours)) + 1e-9, dim=1)


def plain(red: int, green: int, blue: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (red, green, blue))


RED, GREEN, BLUE, ORANGE = plain(255, 0, 0), plain(0, 255, 0), plain(0, 0, 255), plain(255, 30, 0)
TEAL = plain(0, 200, 255)


def test_the_level_leaves_one_in_a_thousand() -> None:
    """Of 999 scores the largest; of 2,000 the second largest, since .001 of 2,001 is 2."""
    scores = np.random.default_rng(0).permutation(2000) / 2000
    assert copy_level(scores.tolist()).level == pytest.approx(1998 / 2000)
    few = scores[:999]
    assert copy_level(few.tolist()).level == pytest.approx(few.max())
    assert (copy_level(few.tolist()).rate, copy_level(few.tolist()).images) == (0.001, 999)


def test_few_images_allow_a_higher_rate_only() -> None:
    scores = [0.1 * index for index in range(9)]
    with pytest.raises(ThresholdError, match="at least 999"):
        copy_level(scores)
    level = copy_level(scores, rate=None)
    assert (level.level, level.rate, level.images) == (scores[-1], 0.1, 9)
    many = copy_level(np.linspace(0, 1, 3000).tolist(), rate=None)
    assert (many.rate, many.level < 1) == (0.001, True)
    with pytest.raises(MitigationError, match="no ordinary image"):
        copy_level([], rate=None)


def test_the_rate_holds_for_a_new_image() -> None:
    """Over many calibrations, a new score exceeds the level at most as often as it may."""
    generator = np.random.default_rng(3)
    draws = generator.standard_normal((20_000, 10))
    exceeded = [row[-1] > copy_level(row[:-1], rate=0.1).level for row in draws[:2000]]
    assert 0.08 < np.mean(exceeded) < 0.12


def test_the_medoid_is_the_most_typical_image() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 1.5])
    assert medoid(torch.stack([angles.cos(), angles.sin()], dim=1)) == 2


def test_whole_images_are_compared_with_the_closest_reference() -> None:
    measure = whole_image([RED, BLUE], [GREEN, TEAL], ByColour(), rate=None)
    assert measure.name == "whole image"
    assert measure.level.images == 2
    assert measure.copies([RED, GREEN, BLUE, ORANGE]) == (True, False, True, True)
    # a copy lies above the level, not on it
    assert measure.copies([TEAL]) == (False,)


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def with_layout(seed: int) -> Image.Image:
    """The same left half in all seeds, and noise on the right."""
    image = noise(seed)
    image.paste(noise(100).crop((0, 0, 4, 8)), (0, 0))
    return image


def test_layouts_are_compared_under_their_mask() -> None:
    references = [with_layout(seed) for seed in (1, 2)]
    ordinary = [noise(seed) for seed in range(10, 30)]
    measure = masked_layout(references, references, ordinary, rate=None)
    assert measure is not None
    assert measure.copies([with_layout(5), noise(6)]) == (True, False)
    assert masked_layout(references, [noise(1), noise(2)], ordinary, rate=None) is None


def test_two_copies_confirm_by_the_first_measure_that_shows_them() -> None:
    one = SeedScores("whole image", (0.9, 0.5, 0.1), 0.5)
    two = SeedScores("masked layout", (0.9, 0.6, 0.1), 0.5)
    three = SeedScores("agreement of seeds", (0.9, 0.6, 0.7), 0.5)
    assert (confirm([one, two, three]).measure, confirm([one, two]).copies) == (
        "masked layout",
        Copies(2, 3),
    )
    alone = confirm([one])
    assert (alone.confirmed, alone.measure, alone.copies) == (False, None, Copies(1, 3))


ORDINARY = [GREEN, TEAL, *(noise(seed) for seed in range(10, 30))]


def test_prompts_are_confirmed_by_their_training_images() -> None:
    prompt = Prompt("a", "VM")
    unedited = [RED, ORANGE, GREEN]
    confirmation, measure = confirm_prompt(prompt, unedited, [RED], ORDINARY, ByColour(), rate=None)
    assert (confirmation.measure, confirmation.copies) == ("whole image", Copies(2, 3))
    assert measure is not None
    assert measure.copies([RED, GREEN]) == (True, False)
    confirmation, measure = confirm_prompt(
        prompt, [RED, GREEN, GREEN], [RED], ORDINARY, ByColour(), rate=None
    )
    assert (confirmation.confirmed, confirmation.copies, measure) == (False, Copies(1, 3), None)


@pytest.mark.parametrize(("references", "kind"), [((1, 2), "TM"), ((1,), "TM"), ((1, 2), "VM")])
def test_templates_are_confirmed_by_their_layout(references: tuple[int, ...], kind: str) -> None:
    """With one training image, the layout is what the unedited images have in common."""
    confirmation, measure = confirm_prompt(
        Prompt("a", "TM" if kind == "TM" else "VM"),
        [with_layout(seed) for seed in (3, 4, 5)],
        [with_layout(seed) for seed in references],
        ORDINARY,
        ByColour(),
        rate=None,
    )
    if kind == "VM":
        assert (confirmation.confirmed, measure) == (False, None)
        return
    assert (confirmation.measure, confirmation.copies) == ("masked layout", Copies(3, 3))
    assert measure is not None
    assert measure.name == "masked layout"


def test_without_a_reference_seeds_must_agree() -> None:
    """The medoid does not count as a copy of itself, so two others must be like it."""

    def judged(unedited: list[Image.Image]) -> tuple[str | None, Copies]:
        confirmation, measure = confirm_prompt(
            Prompt("a"), unedited, [], ORDINARY, ByColour(), rate=None
        )
        assert (measure is None) == (not confirmation.confirmed)
        return confirmation.measure, confirmation.copies

    assert judged([RED, ORANGE, RED, GREEN]) == ("agreement of seeds", Copies(2, 3))
    assert judged([RED, ORANGE, GREEN, BLUE]) == (None, Copies(1, 3))
