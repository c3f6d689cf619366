from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from colours import Colours, images_of, noise
from unmemorize.metrics import Instruments
from unmemorize.metrics._pixel_correlation import PixelCorrelation, centred_correlation

METRIC = PixelCorrelation(Instruments(Colours()))


def by_numpy(first: Image.Image, second: Image.Image) -> float:
    """Pearson correlation of standard scores, channel means removed by hand."""
    rows = []
    for image in (first, second.resize(first.size, Image.Resampling.BICUBIC)):
        channels = [np.asarray(band, dtype=np.float64).ravel() for band in image.split()]
        rows.append(np.concatenate([channel - channel.mean() for channel in channels]))
    return float(np.corrcoef(rows)[0, 1])


def test_the_closest_training_image_counts() -> None:
    generated, training = tuple(map(noise, (1, 2, 3))), (noise(4), noise(2, (16, 12)), noise(5))
    values = METRIC(images_of(generated=generated, training=training))
    expected = [max(by_numpy(image, other) for other in training) for image in generated]
    assert values == pytest.approx(tuple(expected))
    assert len(set(expected)) == 3


def test_colour_alone_is_no_copy() -> None:
    """Two strong colours with other noise: uncorrelated, though their pixels correlate."""
    red, also_red = (
        Image.merge("RGB", [band.point(lambda v: 200 + v / 8), *dark])
        for band, *dark in (noise(seed, (40, 40)).point(lambda v: v / 4).split() for seed in (1, 2))
    )
    plain = np.corrcoef(np.asarray(red).ravel(), np.asarray(also_red).ravel())[0, 1]
    assert plain > 0.9
    assert abs(centred_correlation(red, also_red)) < 0.1
    assert centred_correlation(red, red) == pytest.approx(1.0)


def test_constant_images_correlate_with_nothing() -> None:
    assert centred_correlation(noise(1), Image.new("RGB", (8, 6), (200, 30, 9))) == 0.0


def test_without_a_training_image_there_is_no_value() -> None:
    assert METRIC(images_of()) is None
