import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmemorize import ModelError
from unmemorize.detection import (
    pairs_of,
    pairwise_similarity,
    published_similarity,
    similarity,
)
from unmemorize.detection._ms_ssim import kernel_size, ms_ssim
from unmemorize.detection._similarity import matrix_of


def halved(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average blocks of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in images.shape[2:])
    corners = [images[:, :, y:height:2, x:width:2] for y in (0, 1) for x in (0, 1)]
    return sum(corners, np.zeros(1)) / 4


def plain_ms_ssim(
    first: NDArray[np.float64], second: NDArray[np.float64], k: int, data_range: float | None
) -> list[float]:
    """Compute the MS-SSIM of METHOD.md, section 6, of a batch with plain loops in float64."""
    offsets = np.arange(k) - k // 2
    line = np.exp(-(offsets**2) / (2 * (1.5 * k / 11) ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    products = [1.0] * len(first)
    for scale in range(3):
        span = data_range or max(np.ptp(first), np.ptp(second))
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        rows, columns = (side - k + 1 for side in first.shape[2:])
        for number, (a, b) in enumerate(zip(first, second, strict=True)):
            terms = []
            for channel, row, column in np.ndindex(len(a), rows, columns):
                x = a[channel, row : row + k, column : column + k]
                y = b[channel, row : row + k, column : column + k]
                mean_x, mean_y = (window * x).sum(), (window * y).sum()
                variances = (window * (x - mean_x) ** 2 + window * (y - mean_y) ** 2).sum()
                covariance = (window * (x - mean_x) * (y - mean_y)).sum()
                term = (2 * covariance + c2) / (variances + c2)
                if scale == 2:
                    term *= (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
                terms.append(term)
            products[number] *= max(float(np.mean(terms)), 0.0) ** 0.33
        first, second = halved(first), halved(second)
    return products


def noisy(side: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Make four images, and others that resemble them less and less, some beyond [0, 1]."""
    rng = np.random.default_rng(side)
    first = rng.random((4, 4, side, side))
    noise = rng.standard_normal(first.shape)
    strength = 0.3 * np.arange(1, 5) / 4
    second = np.clip(first + strength[:, None, None, None] * noise, -0.2, 1.1)
    return torch.from_numpy(first).to(dtype), torch.from_numpy(second).to(dtype)


TORCHMETRICS_1_3_2: dict[tuple[int, float | None], list[float]] = {
    (16, None): [0.957058939, 0.866794440, 0.695266379, 0.573920784],
    (16, 1.0): [0.960132170, 0.872454796, 0.727930457, 0.603612601],
    (32, None): [0.964704338, 0.877355823, 0.766767889, 0.704958439],
    (32, 1.0): [0.965489961, 0.878938858, 0.770624767, 0.707747598],
    (64, None): [0.966649834, 0.877181173, 0.765308324, 0.689476661],
    (64, 1.0): [0.967165421, 0.878959533, 0.769050555, 0.691965508],
}
"""Numbers of the release that the published code pins, by side and data_range. They were made by
multiscale_structural_similarity_index_measure(*noisy(side), sigma=1.5 * k / 11, kernel_size=k,
data_range=data_range, betas=(0.33, 0.33, 0.33), reduction="none") of
torchmetrics.functional.image, with k = 3, 7, 11, in float64. Its
weights are in float32, which accounts for a difference of 1e-8."""


@pytest.mark.parametrize(("side", "data_range"), TORCHMETRICS_1_3_2)
def test_both_definitions_against_the_pinned_release(side: int, data_range: float | None) -> None:
    expected = TORCHMETRICS_1_3_2[side, data_range]
    assert ms_ssim(*noisy(side), data_range).tolist() == pytest.approx(expected, abs=3e-8)
    in_float32 = ms_ssim(*noisy(side, torch.float32), data_range)
    assert in_float32.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("side", "k"), [(16, 3), (20, 5), (32, 7)])
@pytest.mark.parametrize("data_range", [None, 1.0])
def test_both_definitions_against_plain_loops(side: int, k: int, data_range: float | None) -> None:
    first, second = noisy(side)
    second[3] = 1 - first[3]  # a negative contrast, which counts as 0
    expected = plain_ms_ssim(first.numpy(), second.numpy(), k, data_range)
    assert expected[3] == 0
    assert ms_ssim(first, second, data_range).tolist() == pytest.approx(expected, abs=1e-9)
    if data_range is None:
        published = published_similarity(first, second)
        assert published.tolist() == pytest.approx(expected, abs=1e-9)


def test_a_published_value_depends_on_its_batch_and_a_fixed_one_does_not() -> None:
    first, second = noisy(16)
    alone = [published_similarity(a[None], b[None]) for a, b in zip(first, second, strict=True)]
    together = published_similarity(first, second)
    assert float((together - torch.cat(alone)).abs().max()) > 1e-3
    fixed = [ms_ssim(a[None], b[None], 1.0) for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(ms_ssim(first, second, 1.0), torch.cat(fixed))


def test_all_pairs_are_compared_in_one_call() -> None:
    first, _ = noisy(16)
    first[0] *= 0.5
    first[1] += 0.3
    rows, columns = torch.triu_indices(4, 4, 1)
    whole = published_similarity(first[rows], first[columns])
    assert pairs_of(pairwise_similarity(first, "published")).tolist() == pytest.approx(
        whole.tolist(), abs=1e-6
    )
    one = published_similarity(first[2:3], first[3:4])
    assert abs(float(whole[5]) - float(one)) > 1e-3


def images(count: int, side: int, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand((count, 4, side, side), generator=generator, dtype=torch.float64)
    return first, (
        first + noise * torch.randn(first.shape, generator=generator, dtype=torch.float64)
    ).clamp(0, 1)


@pytest.mark.parametrize(("side", "k"), [(16, 3), (32, 7), (64, 11)])
def test_the_fixed_similarity_against_plain_loops(side: int, k: int) -> None:
    first, second = images(2, side)
    expected = plain_ms_ssim(first.numpy(), second.numpy(), k, 1.0)
    assert similarity(first, second).tolist() == pytest.approx(expected, abs=1e-9)
    assert kernel_size(side) == k


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
    assert matrix_of(pairs_of(matrix), 4).tolist() == matrix.tolist()
    assert float(pairs_of(matrix).max()) == max(
        max(row[:i] + row[i + 1 :]) for i, row in enumerate(matrix.tolist())
    )


def test_pairs_of_several_prompts_make_matrices() -> None:
    pairs = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], dtype=torch.float64)
    first = [[1.0, 0.1, 0.2], [0.1, 1.0, 0.3], [0.2, 0.3, 1.0]]
    second = [[1.0, 0.4, 0.5], [0.4, 1.0, 0.6], [0.5, 0.6, 1.0]]
    assert matrix_of(pairs, 3).tolist() == [first, second]


def test_small_latents_are_refused() -> None:
    with pytest.raises(ModelError, match="too small"):
        kernel_size(11)


@pytest.mark.parametrize("side", range(12, 50))
def test_every_larger_side_works(side: int) -> None:
    first, second = images(1, side)
    assert 0 < float(similarity(first, second)) <= 1
