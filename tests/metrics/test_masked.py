from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from colours import Colours, images_of
from unmemorize import MetricError, Prompt, testbed
from unmemorize.metrics import Instruments, read_image
from unmemorize.metrics._masked import MaskedCopy, layout_mask, masked_copy_scores


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


def test_pixels_agree_in_all_channels() -> None:
    """The left half agrees in all of them, the right half only in two."""
    images = []
    for blue in (0, 90, 220):
        image = Image.new("RGB", (20, 10), (200, 40, 100))
        image.paste((200, 40, blue), (10, 0, 20, 10))
        images.append(image)
    mask = layout_mask(images)
    assert mask.shape == (10, 20)
    assert mask[:, :10].all()
    assert not mask[:, 10:].any()


def test_a_copied_layout_scores_with_any_filling() -> None:
    mask = layout_mask(REFERENCES)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    scores = masked_copy_scores(
        [template(60), template(200, layout=40), noise],
        REFERENCES,
        mask,
    )
    assert scores is not None
    assert scores[:2] == pytest.approx([1.0, 1.0])
    assert abs(scores[2]) < 0.3


def test_a_common_colour_is_no_copy() -> None:
    """Images of one orange ground, each with other noise, and one that is nothing but orange."""
    rng = np.random.default_rng(3)
    grounds = [
        Image.fromarray(
            np.clip(rng.normal((230, 140, 30), 12, (40, 40, 3)), 0, 255).astype(np.uint8)
        )
        for _ in range(3)
    ]
    *references, unrelated = grounds
    mask = layout_mask(references)
    assert mask.mean() > 0.9
    plain = Image.new("RGB", (40, 40), (230, 141, 30))
    scores = masked_copy_scores([unrelated, plain, references[1]], references, mask)
    assert scores is not None
    assert abs(scores[0]) < 0.1
    assert scores[1] == 0
    assert scores[2] == pytest.approx(1.0)


def by_numpy(first: Image.Image, second: Image.Image, mask: Any) -> float:
    """Pearson correlation under a mask, channel means removed by hand."""
    rows = []
    for image in (first, second):
        channels = [np.asarray(band, dtype=np.float64)[mask] for band in image.split()]
        rows.append(np.concatenate([channel - channel.mean() for channel in channels]))
    return float(np.corrcoef(rows)[0, 1])


def test_scores_against_numpy() -> None:
    rng = np.random.default_rng(1)
    one, other = (
        Image.fromarray(rng.integers(0, (255, 120, 30), (8, 8, 3), dtype=np.uint8))
        for _ in range(2)
    )
    mask = rng.random((8, 8)) < 0.5
    expected = by_numpy(one, other, mask)
    assert masked_copy_scores([one], [other], mask) == pytest.approx([expected])


def test_the_closest_reference_counts() -> None:
    rng = np.random.default_rng(2)
    first, second, third = (
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(3)
    )
    mask = np.ones((8, 8), dtype=bool)
    scores = masked_copy_scores([first, second], [third, first], mask)
    expected = max(by_numpy(second, image, mask) for image in (third, first))
    assert scores == pytest.approx((1.0, expected))


def masked_copy(**given: Any) -> Any:
    images = images_of(**({"prompt": Prompt("p", "TM"), "training": tuple(REFERENCES)} | given))
    return MaskedCopy(Instruments(Colours()))(images)


GENERATED = (template(60), template(200, layout=40))
NOISE = tuple(
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    for seed in range(3)
)


def test_the_metric_takes_the_layout_of_several_training_images() -> None:
    values = masked_copy(generated=GENERATED, originals=NOISE)
    assert values == masked_copy_scores(GENERATED, REFERENCES, layout_mask(REFERENCES))
    assert values == pytest.approx((1.0, 1.0))


def test_the_layout_of_a_single_training_image_shows_in_the_original_images() -> None:
    """They repeat it; the generated images, which an edit may have changed, need not."""
    originals = tuple(template(shade) for shade in (20, 240))
    values = masked_copy(generated=NOISE, originals=originals, training=REFERENCES[:1])
    assert values == masked_copy_scores(NOISE, REFERENCES[:1], layout_mask(originals))
    assert values is not None
    assert masked_copy(generated=GENERATED, originals=NOISE, training=REFERENCES[:1]) is None


def test_a_training_image_that_is_listed_twice_counts_once() -> None:
    first, second, _ = REFERENCES
    twice = masked_copy(generated=GENERATED, training=(first, second, first.copy()))
    assert twice == masked_copy(generated=GENERATED, training=(first, second))
    originals = tuple(template(shade) for shade in (20, 240))
    alone = masked_copy(generated=GENERATED, originals=originals, training=(first, first.copy()))
    assert alone == masked_copy(generated=GENERATED, originals=originals, training=(first,))
    assert masked_copy(generated=GENERATED, training=(first, first.copy())) is None


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": Prompt("p", "VM")},
        {"prompt": Prompt("p")},
        {"training": ()},
        {"training": tuple(REFERENCES[:1])},
        {"training": tuple(REFERENCES[:1]), "originals": (template(3),)},
    ],
)
def test_the_metric_is_for_template_prompts_with_a_layout(given: dict[str, Any]) -> None:
    assert masked_copy(generated=GENERATED) is not None
    assert masked_copy(generated=GENERATED, **given) is None


def test_too_small_a_mask_gives_no_score() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    assert masked_copy_scores(REFERENCES, REFERENCES, mask) is None
    mask[0, :19] = True
    assert masked_copy_scores(REFERENCES, REFERENCES, mask) is None
    mask[0, 19] = True
    assert masked_copy_scores(REFERENCES, REFERENCES, mask) is not None


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
