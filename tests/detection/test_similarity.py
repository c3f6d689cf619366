import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

from unmemorize import ModelError
from unmemorize.detection import pairs_of, pairwise_similarity, similarity
from unmemorize.detection._similarity import highest_similarity, kernel_size


def ms_ssim(first: NDArray[np.float64], second: NDArray[np.float64], k: int) -> float:
    """Compute MS-SSIM (Wang et al. 2003) of one image (C, H, W) with plain loops in float64.

    Contrast is averaged over whole windows only. The last scale, with luminance, is averaged over
    the whole image, which is continued by reflection.
    """
    offsets = np.arange(k) - k // 2
    line = np.exp(-(offsets**2) / (2 * (1.5 * k / 11) ** 2))
    window = np.outer(line, line) / line.sum() ** 2

    def filtered(image: NDArray[np.float64]) -> NDArray[np.float64]:
        height, width = image.shape
        out = np.empty((height - k + 1, width - k + 1))
        for row in range(out.shape[0]):
            for column in range(out.shape[1]):
                out[row, column] = (image[row : row + k, column : column + k] * window).sum()
        return out

    product = 1.0
    for scale in range(3):
        contrasts, similarities = [], []
        for a, b in zip(first, second, strict=True):
            if scale == 2:
                a, b = (np.pad(image, k // 2, mode="reflect") for image in (a, b))
            mean_a, mean_b = filtered(a), filtered(b)
            variance = filtered(a * a) + filtered(b * b) - mean_a**2 - mean_b**2
            contrast = (2 * (filtered(a * b) - mean_a * mean_b) + 0.03**2) / (variance + 0.03**2)
            contrasts.append(contrast)
            similarities.append(
                (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2) * contrast
            )
        value = float(np.mean(similarities if scale == 2 else contrasts))
        product *= max(value, 0.0) ** 0.33
        first, second = (
            image.reshape(len(image), image.shape[1] // 2, 2, image.shape[2] // 2, 2).mean((2, 4))
            for image in (first, second)
        )
    return product


def images(count: int, side: int, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand((count, 4, side, side), generator=generator, dtype=torch.float64)
    return first, (
        first + noise * torch.randn(first.shape, generator=generator, dtype=torch.float64)
    ).clamp(0, 1)


@pytest.mark.parametrize(("side", "k"), [(16, 3), (32, 7), (64, 11)])
def test_against_an_independent_implementation(side: int, k: int) -> None:
    first, second = images(2, side)
    expected = [ms_ssim(a.numpy(), b.numpy(), k) for a, b in zip(first, second, strict=True)]
    assert similarity(first, second).tolist() == pytest.approx(expected, abs=1e-7)
    assert kernel_size(side) == k


@pytest.mark.parametrize(("side", "k"), [(16, 3), (32, 7), (64, 11)])
def test_against_torchmetrics_one_image_at_a_time(side: int, k: int) -> None:
    first, second = images(5, side)
    metric = MultiScaleStructuralSimilarityIndexMeasure(
        sigma=1.5 * k / 11, kernel_size=k, data_range=1.0, betas=(0.33, 0.33, 0.33)
    )
    metric.set_dtype(torch.float64)
    expected = [float(metric(a[None], b[None])) for a, b in zip(first, second, strict=True)]
    assert similarity(first, second).tolist() == pytest.approx(expected, abs=1e-9)


def test_one_value_does_not_depend_on_its_batch() -> None:
    first, second = images(6, 16)
    alone = torch.cat([similarity(a[None], b[None]) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(similarity(first, second), alone, rtol=1e-12, atol=1e-12)


def test_pairwise_matrix() -> None:
    first, _ = images(4, 16)
    matrix = pairwise_similarity(first.float())
    assert torch.equal(matrix, matrix.T)
    assert matrix.diagonal().tolist() == [1.0] * 4
    assert matrix[1, 2].item() == pytest.approx(float(similarity(first[1:2], first[2:3])), abs=1e-5)
    assert pairs_of(matrix).shape == (6,)
    assert highest_similarity(matrix).tolist() == [
        max(row[:i] + row[i + 1 :]) for i, row in enumerate(matrix.tolist())
    ]


def test_small_latents_are_refused() -> None:
    with pytest.raises(ModelError, match="too small"):
        kernel_size(11)


@pytest.mark.parametrize("side", range(12, 50))
def test_every_larger_side_works(side: int) -> None:
    first, second = images(1, side)
    assert 0 < float(similarity(first, second)) <= 1
