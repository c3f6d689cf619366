from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from colours import Colours, cosines, images_of, noise
from unmemorize import MetricError
from unmemorize.metrics import Instruments, copy_scores, pixel_correlation
from unmemorize.metrics._copies import (
    Diversity,
    SscdGen,
    SscdOrig,
    diversity,
    seedwise_similarity,
)

GENERATED, ORIGINALS, TRAINING = (
    tuple(map(noise, seeds)) for seeds in ((1, 2, 3), (4, 5, 6), (7, 8))
)
INSTRUMENTS = Instruments(Colours())


def unit(rows: list[list[float]]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_copy_scores_take_the_closest_reference() -> None:
    generated, references = unit([[1, 0], [1, 1]]), unit([[0, 1], [1, 0]])
    assert copy_scores(generated, references).tolist() == pytest.approx([1.0, 0.5**0.5])
    with pytest.raises(MetricError, match="no training image"):
        copy_scores(generated, references[:0])


@pytest.mark.parametrize(
    "value", [[Image.new("RGB", (2, 2))], Image.new("RGB", (2, 2)), torch.tensor([1.0, 0.0])]
)
def test_copy_scores_compare_vectors(value: Any) -> None:
    vectors: Any = torch.tensor([[1.0, 0.0]])
    for pair in ((value, vectors), (vectors, value)):
        with pytest.raises(MetricError, match=r"not unit vectors, \(N, D\)\. Describe the images"):
            copy_scores(*pair)


def test_seedwise_similarity_pairs_rows() -> None:
    first, second = unit([[1, 0], [0, 1]]), unit([[1, 0], [1, 1]])
    assert seedwise_similarity(first, second).tolist() == pytest.approx([1.0, 0.5**0.5])
    with pytest.raises(MetricError, match=r"1 and 2 images .* seed by seed"):
        seedwise_similarity(first[:1], second)


def test_diversity_is_the_median_over_pairs() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(5, 3)).tolist())
    products = (rows @ rows.T).numpy()
    expected = np.median([products[i, j] for i in range(5) for j in range(i)])
    assert diversity(rows) == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(MetricError, match="at least 2"):
        diversity(rows[:1])


def test_sscd_orig_compares_generated_images_with_training_images() -> None:
    images = images_of(generated=GENERATED, originals=ORIGINALS, training=TRAINING)
    expected = cosines(GENERATED, TRAINING).max(1)
    assert SscdOrig(INSTRUMENTS)(images) == pytest.approx(tuple(expected), abs=1e-6)
    assert len(set(expected)) == 3
    assert SscdOrig(INSTRUMENTS)(images_of(generated=GENERATED, originals=ORIGINALS)) is None


def test_sscd_gen_compares_each_seed_with_its_original() -> None:
    images = images_of(generated=GENERATED, originals=ORIGINALS, training=TRAINING)
    expected = np.diagonal(cosines(GENERATED, ORIGINALS))
    assert SscdGen(INSTRUMENTS)(images) == pytest.approx(tuple(expected), abs=1e-6)
    assert SscdGen(INSTRUMENTS)(images_of(generated=GENERATED, training=TRAINING)) is None


def test_d_sscd_compares_generated_images_with_each_other() -> None:
    images = images_of(generated=GENERATED, originals=ORIGINALS, training=TRAINING)
    products = cosines(GENERATED, GENERATED)
    expected = np.median([products[0, 1], products[0, 2], products[1, 2]])
    assert Diversity(INSTRUMENTS)(images) == pytest.approx(expected, abs=1e-6)
    assert Diversity(INSTRUMENTS)(images_of(generated=GENERATED[:1])) is None


def test_d_sscd_of_an_even_number_of_pairs() -> None:
    """Four images have six pairs."""
    generated = [noise(seed) for seed in range(4)]
    rows, columns = np.triu_indices(4, 1)
    products = cosines(generated, generated)[rows, columns]
    images = images_of(generated=generated)
    lower = Diversity(Instruments(Colours(), medians="lower"))(images)
    assert lower == pytest.approx(float(torch.tensor(products).median()), abs=1e-6)
    assert Diversity(INSTRUMENTS)(images) == pytest.approx(np.median(products), abs=1e-6)
    assert lower == pytest.approx(np.sort(products)[2], abs=1e-6)


def test_embeddings_are_computed_once_for_all_metrics() -> None:
    descriptor = Colours()
    images = images_of(originals=ORIGINALS, training=TRAINING, descriptor=descriptor)
    for metric in (SscdOrig, SscdGen, Diversity):
        metric(INSTRUMENTS)(images)
    assert descriptor.calls == 3


def test_metrics_name_the_descriptor_with_its_hash() -> None:
    for metric in (SscdOrig, SscdGen, Diversity):
        measured_by = metric(INSTRUMENTS).measured_by
        assert (measured_by.name, measured_by.sha256) == ("inception-colours", "c" * 64)
        assert str(measured_by) == "inception-colours (sha256 cccccccccccc)"


def test_pixel_correlation_against_numpy() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(2))
    expected = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    grey = Image.new("RGB", (8, 8), (9, 9, 9))
    correlations = pixel_correlation([Image.fromarray(first)] * 2, [Image.fromarray(second), grey])
    assert correlations == pytest.approx([expected, 0.0])
