from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from colours import images_of
from unmemorize import ClipAlignment, MetricError, Prompt, testbed
from unmemorize._bundled import clip_path
from unmemorize.metrics._clip_metric import AClip


@pytest.fixture(scope="module")
def clip() -> ClipAlignment:
    return ClipAlignment()


def test_alignment_prefers_the_caption_of_an_image(clip: ClipAlignment) -> None:
    entries = [entry for entry in testbed.planted() if entry.mode == "natural"]
    images = [Image.open(entry.prompt.images[0]).convert("RGB") for entry in entries]
    columns = [clip(images, entry.prompt.text) for entry in entries]
    cosines = torch.stack(columns, 1)  # (images, texts)
    assert (cosines.argmax(1) == torch.arange(len(entries))).float().mean() >= 0.8


def test_a_clip_aligns_generated_images_with_the_prompt(clip: ClipAlignment) -> None:
    entries = [entry for entry in testbed.planted() if entry.mode == "natural"][:3]
    generated = tuple(Image.open(entry.prompt.images[0]).convert("RGB") for entry in entries)
    text = entries[1].prompt.text
    images = images_of(prompt=Prompt(text), generated=generated, originals=generated[::-1])
    values = AClip(clip)(images)
    assert values == pytest.approx(tuple(clip(generated, text).tolist()))
    assert max(values) == values[1]


def test_loading_a_clip_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    ClipAlignment()
    assert capfd.readouterr().err == ""


def test_without_a_clip_there_is_no_alignment(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="no CLIP can be loaded"):
        ClipAlignment(tmp_path)


@pytest.mark.parametrize("length", [None, 1000])
def test_a_tokenizer_that_states_no_length_cuts_texts_as_long_as_the_model_takes(
    clip: ClipAlignment, tmp_path: Path, length: int | None
) -> None:
    shutil.copytree(clip_path(), tmp_path / "clip")
    config = tmp_path / "clip" / "tokenizer_config.json"
    content = json.loads(config.read_text())
    content["model_max_length"] = length
    if length is None:
        del content["model_max_length"]
    config.write_text(json.dumps(content))
    texts = ["a cat", "a very big red dog on a sofa", "a very long caption of a red cat " * 60]
    assert torch.equal(ClipAlignment(tmp_path / "clip").texts(texts), clip.texts(texts))
