"""Which images count as copies, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from colours import Colours, cosines, noise
from unmemorize import Prompt, ThresholdError
from unmemorize.detection import conformal_quantile
from unmemorize.mitigation._copy_test import Null, copy_tests, medoid

ORDINARY = [noise(seed, (16, 16)) for seed in range(100, 139)]
OTHERS = [noise(seed, (16, 16)) for seed in range(200, 239)]
RATE = 0.05  # 39 images: the second highest score
COLOURS = Colours()
NULL = Null(COLOURS(ORDINARY), COLOURS(OTHERS), ORDINARY, RATE)


def test_the_whole_image_comes_first_with_a_level_of_its_own() -> None:
    training = [noise(1, (16, 16)), noise(2, (16, 16))]
    unedited = [noise(3, (16, 16)), noise(4, (16, 16))]
    test = next(copy_tests(Prompt("a", "VM"), training, unedited, NULL, COLOURS))
    assert test.measure == "image"
    scores = sorted(cosines(ORDINARY, training).max(1))
    assert test.level == pytest.approx(scores[-2])
    found = test.scores(unedited, COLOURS)
    assert found == pytest.approx(cosines(unedited, training).max(1).tolist())
    assert test.copies_among(NULL) == (int(cosines(ORDINARY, training).max(1).argmax()),)


def template(seed: int) -> Image.Image:
    """A fixed layout whose right half differs from image to image."""
    pixels = np.asarray(noise(1, (16, 16))).copy()
    pixels[:, 8:] = np.asarray(noise(seed, (16, 16)))[:, 8:]
    return Image.fromarray(pixels)


def test_the_layout_of_several_training_images_is_compared_alone() -> None:
    training = [template(seed) for seed in range(2, 8)]
    image, layout = copy_tests(Prompt("a", "TM"), training, [], NULL, COLOURS)
    assert (image.measure, layout.measure) == ("image", "layout")
    assert layout.mask is not None
    assert layout.mask[:, :8].all()
    assert layout.mask[:, 8:].mean() < 0.2

    def correlation(one: Image.Image, two: Image.Image) -> float:
        assert layout.mask is not None
        left, right = (np.asarray(each, float)[layout.mask] for each in (one, two))
        centred = [(pixels - pixels.mean(0)).ravel() for pixels in (left, right)]
        return float(np.corrcoef(centred)[0, 1])

    scores = [max(correlation(each, other) for other in training) for each in ORDINARY]
    assert layout.level == pytest.approx(sorted(scores)[-2])
    assert layout.copies_among(NULL) == (int(np.argmax(scores)),)
    assert layout.scores([template(50)], COLOURS)[0] > 0.9 > layout.level


def test_the_layout_of_one_training_image_is_that_of_the_unedited_images() -> None:
    unedited = [template(seed) for seed in range(2, 8)]
    tests = list(copy_tests(Prompt("a"), [template(9)], unedited, NULL, COLOURS))
    assert [test.measure for test in tests] == ["image", "layout"]
    alone = list(copy_tests(Prompt("a"), [template(9)], unedited[:1], NULL, COLOURS))
    assert [test.measure for test in alone] == ["image"]


def test_a_training_image_that_is_listed_twice_is_one_image() -> None:
    unedited = [template(seed) for seed in range(2, 8)]
    one, twice = (
        list(copy_tests(Prompt("a", "TM"), training, unedited, NULL, COLOURS))[1]
        for training in ([template(9)], [template(9), template(9)])
    )
    assert one.mask is not None
    assert twice.mask is not None
    assert (one.mask == twice.mask).all()
    assert twice.level == one.level


def test_images_without_a_layout_or_of_a_verbatim_prompt_are_compared_whole() -> None:
    training = [noise(seed, (16, 16)) for seed in range(9)]
    for prompt in (Prompt("a", "TM"), Prompt("a", "VM")):
        tests = copy_tests(prompt, training, [], NULL, COLOURS)
        assert [test.measure for test in tests] == ["image"]


def test_without_training_images_seeds_are_compared_with_the_most_typical_one() -> None:
    unedited = [noise(seed, (16, 16)) for seed in range(5)]
    (test,) = copy_tests(Prompt("a"), [], unedited, NULL, COLOURS)
    assert test.measure == "agreement"
    typical = int(np.median(cosines(unedited, unedited), axis=1).argmax())
    assert test.scores(unedited, COLOURS)[typical] == pytest.approx(1)
    pairs = sorted(cosines(ORDINARY, OTHERS).diagonal())
    assert test.level == pytest.approx(pairs[-2])
    like = cosines(ORDINARY, [unedited[typical]])[:, 0]
    assert test.copies_among(NULL) == tuple(np.flatnonzero(like > test.level).tolist())


def test_too_few_ordinary_images_are_refused() -> None:
    few = Null(COLOURS(ORDINARY[:9]), COLOURS(OTHERS[:9]), ORDINARY[:9], RATE)
    with pytest.raises(ThresholdError, match="too few"):
        next(copy_tests(Prompt("a"), [noise(1)], [], few, COLOURS))


def test_the_medoid_is_most_similar_to_the_others() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.9])
    assert medoid(torch.stack([angles.cos(), angles.sin()], 1)) == 1


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 2.5, 4.5), (0.2, 1.5, 3.5)])
def test_more_images_pass_where_agreement_is_compared(
    spread: float, low: float, high: float
) -> None:
    """Images are compared with the most typical one, and the null compares any two."""
    generator = torch.Generator().manual_seed(0)

    def embedded(captions: int, images: int) -> torch.Tensor:
        means = F.normalize(torch.randn(captions, 1, 64, generator=generator), dim=2)
        widths = (spread * torch.randn(captions, 1, 1, generator=generator)).exp() / 8
        noises = torch.randn(captions, images, 64, generator=generator)
        return F.normalize(means + widths * noises, dim=2)

    null, found = embedded(20_000, 2), embedded(4000, 10)
    level = conformal_quantile((null[:, 0] * null[:, 1]).sum(1).tolist(), 0.001)
    passed = 0
    for images in found:
        scores = images @ images[medoid(images)]
        passed += int((scores > level).sum()) - 1  # the image itself
    assert low < passed / (9 * len(found)) / 0.001 < high
