"""Distances between sets of images against numpy and scipy, from the files on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor

from networks import Layers, Network, save_script
from unmemorize import ClipAlignment, MetricError
from unmemorize.metrics import InceptionFeatures
from unmemorize.metrics._images import image_files
from unmemorize.metrics._quality import clean_resize, features_of, quality

Array = NDArray[np.float64]


def folder_of_images(folder: Path, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        small = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        size = (int(rng.integers(40, 500)), int(rng.integers(40, 500)))
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(
            folder / f"{number:02d}.png"
        )
    return folder


def features_by_hand(folder: Path) -> Array:
    """Resize by PIL in floating point channel by channel, convolve by numpy."""
    network = Layers()
    weight, bias = (tensor.detach().double().numpy() for tensor in network.conv.parameters())
    rows = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            bands = [
                band.convert("F").resize((299, 299), Image.Resampling.BICUBIC)
                for band in image.convert("RGB").split()
            ]
        pixels = np.stack([np.clip(np.asarray(band, dtype=np.float64), 0, 255) for band in bands])
        scaled = (pixels - 128) / 128
        windows = np.lib.stride_tricks.sliding_window_view(scaled, (5, 5), axis=(1, 2))[
            :, ::7, ::7
        ]  # (3, 43, 43, 5, 5)
        found = np.einsum("cijuv,kcuv->kij", windows, weight) + bias[:, None, None]
        rows.append(np.maximum(found, 0).mean((1, 2)))
    return np.array(rows)


def frechet(first: Array, second: Array) -> float:
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    return float(
        ((first.mean(0) - second.mean(0)) ** 2).sum()
        + np.trace(covariances[0] + covariances[1] - 2 * root)
    )


def kernel_distance(first: Array, second: Array) -> float:
    """The unbiased estimate over all pairs, by loops."""

    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(rows: Array) -> float:
        return sum(
            kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j
        ) / (len(rows) * (len(rows) - 1))

    between = sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))
    return within(first) + within(second) - 2 * between


def test_folders_give_the_numbers_of_numpy(tmp_path: Path) -> None:
    sha256 = save_script(Network(), tmp_path / "inception-small.pt")
    extractor = InceptionFeatures(tmp_path / "inception-small.pt", sha256)
    folders = [
        folder_of_images(tmp_path / name, 14, seed) for seed, name in enumerate(("one", "two"))
    ]
    ours = [features_of(image_files(folder), extractor, batch=5) for folder in folders]
    by_hand = [features_by_hand(folder) for folder in folders]
    for found, expected in zip(ours, by_hand, strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
    result = quality(ours[0], ours[1])
    assert result.fid == pytest.approx(frechet(*by_hand), rel=1e-3)
    assert result.kid == pytest.approx(kernel_distance(*by_hand), rel=1e-3)
    assert result.kid_std > 0
    assert (result.generated, result.real) == (14, 14)
    assert (extractor.name, extractor.digest) == ("inception-small", sha256)


def test_the_same_images_are_at_no_distance() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 4)))
    same = quality(rows, rows)
    assert same.fid == pytest.approx(0.0, abs=1e-6)
    shifted = quality(rows + 1, rows)
    assert shifted.fid == pytest.approx(4.0, rel=1e-6)
    assert shifted.kid > 0


def test_random_state_is_left_alone() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 3)))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = quality(rows, rows + 0.1)
    assert torch.equal(torch.rand(1), expected)
    assert first == quality(rows, rows + 0.1)


def test_resizing_is_unrounded_and_bounded() -> None:
    checks = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    resized = clean_resize(checks, 299)
    assert resized.shape == (3, 299, 299)
    assert (float(resized.min()), float(resized.max())) == (0.0, 255.0)
    assert float((resized - resized.round()).abs().max()) > 0.1


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    rows = torch.ones(3, 2)
    with pytest.raises(MetricError, match="1 generated and 3 other"):
        quality(rows[:1], rows)
    with pytest.raises(MetricError, match="not finite"):
        quality(rows * float("nan"), rows)
    sha256 = save_script(Layers(), tmp_path / "other.pt")
    with pytest.raises(MetricError, match="has no part called layers"):
        InceptionFeatures(tmp_path / "other.pt", sha256)
    with pytest.raises(MetricError, match="expected 00"):
        InceptionFeatures(tmp_path / "other.pt", "00")


def test_clip_features_are_those_of_alignment_before_normalisation() -> None:
    clip = ClipAlignment()
    images: Sequence[Image.Image] = [
        Image.new("RGB", (64, 64), colour) for colour in ((200, 30, 30), (10, 90, 10))
    ]
    found = clip.features(images)
    text = clip._clip.get_text_features(
        **clip._tokenizer(["a thing"], padding="max_length", truncation=True, return_tensors="pt")
    )
    pooled = text if isinstance(text, Tensor) else text.pooler_output
    cosine = torch.nn.functional.cosine_similarity(found, pooled)
    assert torch.allclose(cosine, clip(images, "a thing"), atol=1e-5)
    assert len(clip.digest) == 64
