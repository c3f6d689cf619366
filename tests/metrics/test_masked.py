import numpy as np
import pytest
from PIL import Image

from unmemorize import MetricError, testbed
from unmemorize.metrics import read_image
from unmemorize.metrics._masked import layout_mask, masked_copy_scores


def template(shade: int, layout: int = 90) -> Image.Image:
    """A fixed pattern on the left, a varying right half."""
    pixels = np.zeros((20, 20, 3), dtype=np.uint8)
    pixels[::2, :10] = layout
    pixels[:, 10:] = shade
    return Image.fromarray(pixels)


REFERENCES = [template(shade) for shade in (0, 120, 250)]


def test_the_mask_is_what_images_share() -> None:
    mask = layout_mask(REFERENCES)
    assert mask.shape == (20, 20)
    assert mask[:, :10].all()
    assert not mask[:, 10:].any()


def test_a_copied_layout_scores_whatever_fills_it() -> None:
    mask = layout_mask(REFERENCES)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    scores = masked_copy_scores(
        [template(60), template(200, layout=40), noise, Image.new("RGB", (20, 20))],
        REFERENCES,
        mask,
    )
    assert scores is not None
    assert scores[:2] == pytest.approx([1.0, 1.0])
    assert abs(scores[2]) < 0.3
    assert scores[3] == 0


def test_scores_against_numpy() -> None:
    rng = np.random.default_rng(1)
    one, other = (
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(2)
    )
    mask = rng.random((8, 8)) < 0.5
    expected = np.corrcoef(np.asarray(one)[mask].ravel(), np.asarray(other)[mask].ravel())[0, 1]
    assert masked_copy_scores([one], [other], mask) == pytest.approx([expected])


def test_nothing_in_common_gives_no_score() -> None:
    assert masked_copy_scores(REFERENCES, REFERENCES, np.zeros((20, 20), dtype=bool)) is None


def test_too_few_images_are_refused() -> None:
    with pytest.raises(MetricError, match="at least 2"):
        layout_mask(REFERENCES[:1])
    with pytest.raises(MetricError, match="no training image"):
        masked_copy_scores(REFERENCES, [], np.ones((20, 20), dtype=bool))


def test_the_templates_of_the_bundled_model_have_a_layout() -> None:
    templates = [entry.prompt.images for entry in testbed.planted() if entry.prompt.kind == "TM"]
    shares = [
        float(layout_mask([read_image(path) for path in images]).mean()) for images in templates
    ]
    assert min(shares) > 0.3
    assert np.median(shares) < 0.999
