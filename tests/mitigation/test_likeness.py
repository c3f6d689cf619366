"""How far captions are from each other, against numpy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from architectures import make
from records import SMALL_MITIGATION
from unmemorize import ClipAlignment, Model
from unmemorize.mitigation._likeness import distances

TEXTS = ("a red cat", "a house")
CAPTIONS = ("a boat", "two red cats", "a red house by a lake", "one", "a tree")


def stages(model: Model | None, clip: ClipAlignment | None) -> Any:
    return SimpleNamespace(model=model, clip=clip, settings=SMALL_MITIGATION)


def test_without_a_clip_the_encodings_of_the_model_count() -> None:
    model = Model(make("Stable Diffusion"))
    own, others = (
        np.stack([model.encode([text]).text.flatten().numpy() for text in each])
        for each in (TEXTS, CAPTIONS)
    )
    wanted = np.sqrt(((own[:, None] - others[None]) ** 2).sum(-1))
    found = distances(stages(model, None), TEXTS, CAPTIONS)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_with_a_clip_its_cosines_count() -> None:
    """The distance of two directions is the square root of 2 - 2 cosines."""
    clip = ClipAlignment()
    far = distances(stages(None, clip), TEXTS, CAPTIONS).numpy()
    cosines = [
        clip.alignment(clip.texts(CAPTIONS), [text] * len(CAPTIONS)).numpy() for text in TEXTS
    ]
    np.testing.assert_allclose(far**2, 2 - 2 * np.stack(cosines), atol=1e-5)


@pytest.mark.parametrize("clip", [None, ClipAlignment()], ids=["encodings", "clip"])
def test_a_caption_is_next_to_itself_and_the_batch_does_not_matter(
    clip: ClipAlignment | None,
) -> None:
    model = Model(make("Stable Diffusion"))
    captions = [*CAPTIONS, *TEXTS]
    found = distances(stages(model, clip), TEXTS, captions)
    assert found.argmin(1).tolist() == [len(CAPTIONS), len(CAPTIONS) + 1]
    assert found.dtype == torch.float32
    one = [distances(stages(model, clip), TEXTS, [caption]) for caption in captions]
    torch.testing.assert_close(found, torch.cat(one, 1), atol=1e-4, rtol=1e-4)
    assert distances(stages(model, clip), TEXTS, []).shape == (2, 0)
