from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import median_abs_deviation

from unmemorize import BundledDescriptor, ClipAlignment, MetricError, testbed
from unmemorize.metrics import copy_scores, pixel_correlation, summarize, wilson_interval
from unmemorize.metrics._copies import diversity, seedwise_similarity


def unit(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_copy_scores_take_the_closest_reference() -> None:
    generated, references = unit([[1, 0], [1, 1]]), unit([[0, 1], [1, 0]])
    assert copy_scores(generated, references).tolist() == pytest.approx([1.0, 0.5**0.5])
    with pytest.raises(MetricError, match="no training image"):
        copy_scores(generated, references[:0])


def test_seedwise_similarity_pairs_rows() -> None:
    assert seedwise_similarity(
        unit([[1, 0], [0, 1]]), unit([[1, 0], [1, 1]])
    ).tolist() == pytest.approx([1.0, 0.5**0.5])
    with pytest.raises(MetricError, match="seed by seed"):
        seedwise_similarity(unit([[1, 0]]), unit([[1, 0], [1, 1]]))


def test_diversity_is_the_median_over_pairs() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(5, 3)).tolist())
    cosines = (rows @ rows.T).numpy()
    expected = np.median([cosines[i, j] for i in range(5) for j in range(i)])
    assert diversity(rows) == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(MetricError, match="at least 2"):
        diversity(rows[:1])


def test_pixel_correlation_against_numpy() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(2))
    expected = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    grey = Image.new("RGB", (8, 8), (9, 9, 9))
    images = [Image.fromarray(first)] * 2
    assert pixel_correlation(images, [Image.fromarray(second), grey]) == pytest.approx(
        [expected, 0.0]
    )


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40))
def test_summary_against_scipy(values: list[float]) -> None:
    summary = summarize(values)
    assert summary.median == pytest.approx(float(np.median(values)))
    assert summary.mad == pytest.approx(float(median_abs_deviation(values)), abs=1e-9)
    assert min(values) <= summary.low <= summary.median <= summary.high <= max(values)


def test_summaries_of_nothing_are_refused() -> None:
    with pytest.raises(MetricError, match="0 value"):
        summarize([])
    with pytest.raises(MetricError, match="finite"):
        summarize([float("nan")])
    with pytest.raises(MetricError, match="share of 0"):
        wilson_interval(0, 0)


def test_wilson_interval_by_its_formula() -> None:
    hits, count, z = 7, 60, 1.959963984540054
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    assert wilson_interval(hits, count) == pytest.approx((centre - half, centre + half))


def test_descriptor_knows_copies_from_other_images() -> None:
    """A mirrored, darker, cropped copy of each training image is closest to its original."""
    descriptor = BundledDescriptor()
    originals = [
        Image.open(entry.prompt.images[0]).convert("RGB")
        for entry in testbed.planted()
        if entry.prompt.kind == "VM" and entry.mode != "rare"
    ]
    copies = [
        image.crop((3, 3, 62, 62)).resize((64, 64)).point(lambda value: value * 0.85)
        for image in originals
    ]
    cosines = descriptor(copies) @ descriptor(originals).T
    hits = (cosines.argmax(1) == torch.arange(len(originals))).float().mean()
    assert hits >= 0.9
    off_diagonal = cosines[~torch.eye(len(originals), dtype=torch.bool)]
    assert cosines.diagonal().median() - off_diagonal.median() > 0.4
    assert torch.allclose(descriptor(originals).norm(dim=1), torch.ones(len(originals)), atol=1e-5)


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "d.safetensors")
    with pytest.raises(MetricError, match="not the weights"):
        BundledDescriptor(tmp_path / "d.safetensors")
    with pytest.raises(MetricError, match="cannot be read"):
        BundledDescriptor(tmp_path / "missing.safetensors")


def test_alignment_prefers_the_own_caption() -> None:
    alignment = ClipAlignment()
    entries = [entry for entry in testbed.planted() if entry.mode == "natural"]
    images = [Image.open(entry.prompt.images[0]).convert("RGB") for entry in entries]
    cosines = torch.stack(
        [alignment(images, entry.prompt.text) for entry in entries], 1
    )  # (images, texts)
    assert (cosines.argmax(1) == torch.arange(len(entries))).float().mean() >= 0.8


def test_alignment_with_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="no CLIP can be loaded"):
        ClipAlignment(tmp_path)
