"""How much of a training image is shown again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unmemorize.metrics import reproduced_mask, reproduced_shares


def textured(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Grey patches of 4 pixels."""
    width, height = size
    shades = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4), np.uint8)
    patches = np.kron(shades, np.ones((4, 4), np.uint8))
    return Image.fromarray(patches).convert("RGB")


def reproduced_share(image: Image.Image, training: list[Image.Image]) -> float:
    """The share that one image shows again; with another image, it is the same."""
    (share,) = reproduced_shares([image], training)
    assert reproduced_shares([textured(9), image], training)[1] == share
    return share


def half_copied() -> Image.Image:
    """The left half of image 1, and the right half of image 2."""
    image = textured(1)
    image.paste(textured(2).crop((32, 0, 64, 64)), (32, 0))
    return image


def test_the_copied_half_is_shown_again() -> None:
    mask = reproduced_mask(half_copied(), textured(1))
    assert mask.shape == (64, 64)
    assert mask[:, :26].all()  # windows reach 5 pixels over the border
    assert mask[:, 38:].mean() < 0.2
    assert 0.4 < reproduced_share(half_copied(), [textured(1)]) < 0.65


def test_noise_and_scale_hardly_count_and_other_images_are_not_shown() -> None:
    noise = np.random.default_rng(5).normal(0, 10, (64, 64, 3))
    noisy = Image.fromarray(np.clip(np.asarray(textured(1)) + noise, 0, 255).astype(np.uint8))
    assert reproduced_share(noisy, [textured(1)]) > 0.95
    assert reproduced_share(textured(1).resize((200, 200)), [textured(1)]) > 0.95
    assert reproduced_share(textured(2), [textured(1)]) < 0.2


def test_the_training_image_that_is_shown_most_counts() -> None:
    training = [textured(3), textured(1)]
    assert reproduced_share(textured(1), training) == 1.0
    assert reproduced_share(textured(1), training[::-1]) == 1.0


@pytest.mark.parametrize(
    ("size", "shape"), [((512, 256), (64, 128)), ((300, 600), (128, 64)), ((8, 8), (11, 11))]
)
def test_large_images_are_scaled_down_and_tiny_ones_fill_a_window(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    mask = reproduced_mask(textured(1, (64, 64)), textured(1, size))
    assert mask.shape == shape


def test_similarity_is_that_of_the_formula_in_the_middle() -> None:
    """SSIM with a Gaussian window of 1.5, by the published formula, around one pixel."""
    one, two = half_copied(), textured(1)
    first, second = (np.asarray(image, np.float64)[..., 0] / 255 for image in (one, two))
    axis = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(axis, axis) / axis.sum() ** 2
    mask = reproduced_mask(one, two)
    for row in (20, 40):
        for column in range(24, 44):
            near = np.s_[row - 5 : row + 6, column - 5 : column + 6]
            x, y = first[near], second[near]
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            var_x, var_y = (window * x * x).sum() - mean_x**2, (window * y * y).sum() - mean_y**2
            both = (window * x * y).sum() - mean_x * mean_y
            ssim = (2 * mean_x * mean_y + 1e-4) * (2 * both + 9e-4)
            ssim /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
            assert mask[row, column] == (ssim > 0.5) or abs(ssim - 0.5) < 1e-3
