"""The losses of autoencoder, CLIP and descriptor against their definitions."""

import math

import pytest
import torch

from training.clip import contrastive_loss
from training.descriptor import augment, copy_loss
from training.vae import reconstruction_loss


def test_contrastive_loss_is_the_mean_of_both_directions() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 1.5]])
    to_images = [
        -math.log(math.exp(2) / (math.exp(2) + math.exp(1) + math.exp(0.5))),
        -math.log(math.exp(3) / (math.exp(0) + math.exp(3) + math.exp(1.5))),
    ]
    to_captions = [
        -math.log(math.exp(2) / (math.exp(2) + math.exp(0))),
        -math.log(math.exp(3) / (math.exp(1) + math.exp(3))),
    ]
    expected = (sum(to_images) + sum(to_captions)) / 4
    assert contrastive_loss(logits).item() == pytest.approx(expected)


def test_a_small_colourful_part_weighs_more() -> None:
    """The same error costs more on a red spot than on the grey around it, and more in hue."""
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, :4, :4] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]

    def loss(rows: slice, error: tuple[float, float, float]) -> float:
        decoded = image.clone()
        decoded[:, :, rows, :4] += torch.tensor(error)[:, None, None]
        return reconstruction_loss(decoded, image).item()

    spot, around = slice(0, 4), slice(8, 12)
    assert reconstruction_loss(image, image) == 0
    assert loss(spot, (0.2, 0.2, 0.2)) > 2 * loss(around, (0.2, 0.2, 0.2))
    assert loss(spot, (-0.2, 0.2, 0.0)) > 2 * loss(around, (-0.2, 0.2, 0.0))
    assert loss(around, (-0.2, 0.2, 0.0)) > 1.2 * loss(around, (0.2, 0.2, 0.2))


def test_copy_loss_wants_partners_close_and_others_far() -> None:
    eye = torch.eye(6)
    contrast, entropy = copy_loss(eye, eye)
    shuffled, _ = copy_loss(eye, eye.roll(1, 0))
    _, crowded = copy_loss(torch.ones(6, 6) / 6**0.5, torch.ones(6, 6) / 6**0.5)
    assert contrast < 1e-4 < shuffled
    assert entropy.item() == pytest.approx(-math.log(math.sqrt(2)))
    assert crowded > entropy


def test_views_differ_and_stay_in_range() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    first, second = augment(images), augment(images)
    assert first.shape == images.shape
    assert first.abs().max() <= 1
    assert (first - second).abs().mean() > 0.05
