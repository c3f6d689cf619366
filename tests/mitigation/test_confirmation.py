"""When the level of a copy rests on too little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mitigated_run import mitigated_run
from unmemorize import Prompt, Run, RunError
from unmemorize.mitigation import warn_of_few_captions
from unmemorize.mitigation._confirmation import Confirmation, confirmed_by, recorded
from unmemorize.mitigation._copy_test import CopyTest, Null
from unmemorize.mitigation._own_captions import own_captions, without_own


@pytest.mark.parametrize(
    ("captions", "rate", "most", "warns"),
    [
        (8, 0.001, None, True),
        (998, 0.001, None, True),
        (999, 0.001, None, False),
        (198, 0.005, None, True),
        (199, 0.005, None, False),
        (99, 0.005, 99, False),  # as --quick asks for
        (98, 0.005, 99, True),
    ],
)
def test_few_captions_do_not_bound_false_copies(
    caplog: pytest.LogCaptureFixture, captions: int, rate: float, most: int | None, warns: bool
) -> None:
    texts = [f"caption {number}" for number in range(captions)]
    warn_of_few_captions([*texts, *texts], rate, most)
    assert (f"rests on images of {captions} ordinary captions" in caplog.text) == warns


class Fixed:
    """Returns the embeddings that images were made with."""

    name = "fixed"
    digest = ""

    def __init__(self, rows: Tensor) -> None:
        self.rows = F.normalize(rows, dim=1)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        return self.rows[[image.getpixel((0, 0)) for image in images]]


def numbered(numbers: Sequence[int]) -> list[Image.Image]:
    return [Image.new("L", (8, 8), number) for number in numbers]


@pytest.mark.parametrize("others", [999, 998])
def test_a_memorized_suspect_among_the_ordinary_captions_is_confirmed(others: int) -> None:
    """Its own copies would be the level that copies must exceed."""
    generator = torch.Generator().manual_seed(0)
    training = torch.randn(1, 64, generator=generator)
    copies = training + 0.3 * torch.randn(11, 64, generator=generator)
    ordinary = F.normalize(torch.randn(others, 64, generator=generator), dim=1)
    descriptor = Fixed(torch.cat([training, copies]))
    own = descriptor.rows[-1:]
    captions = ["a cat", *(f"caption {number}" for number in range(others))]
    embeddings, images = torch.cat([own, ordinary]), numbered([0] * len(captions))
    whole = Null(embeddings, embeddings, images, 0.001)
    null = without_own({"a cat"}, captions, whole)
    assert torch.equal(null.embeddings, ordinary)
    assert null.others is not None
    assert len(null.others) == len(null.images) == others
    assert without_own({"a dog"}, captions, whole) is whole
    assert without_own({"a cat"}, ["a cat"] * len(captions), whole) is whole
    unedited = numbered(range(1, 11))
    found = confirmed_by(Prompt("a cat", "VM"), numbered([0]), unedited, null, descriptor)
    assert found.copies.copies == 10
    raised = confirmed_by(Prompt("a cat", "VM"), numbered([0]), unedited, whole, descriptor)
    assert raised.copies.copies < 10


def test_suspects_of_one_image_do_not_raise_the_level_of_each_other(tmp_path: Path) -> None:
    """Whoever is an ordinary caption, too, draws copies of the image that they share."""
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        Image.new("L", (8, 8), 40 * min(number, 2)).save(file)  # the last two are the same
    missing = tmp_path / "missing.png"
    prompts = {
        0: Prompt("a cat", images=(files[0], files[2])),
        1: Prompt("a dog", images=(files[3], missing)),
        4: Prompt("a tree", images=(files[1], missing)),
    }
    ordinary = ["a dog", "a house", "a tree"]
    assert own_captions(prompts, ordinary) == {0: {"a dog"}, 1: {"a dog"}, 4: {"a tree"}}
    assert own_captions(prompts, ["a house"]) == {0: set(), 1: set(), 4: set()}


def test_levels_on_record_stay(tmp_path: Path) -> None:
    """On another device they differ by rounding, and copies were counted by those on record."""
    run = mitigated_run(tmp_path)
    path = run.folder / "confirmations.jsonl"
    path.unlink()
    prompts = {2: Prompt("a cat")}
    references = torch.eye(4, dtype=torch.float32)[:1]
    first = {2: Confirmation(CopyTest("image", 0.5, references=references), (0.7, 0.6, 0.1))}
    null = Null(torch.eye(4, dtype=torch.float32)[:2], None, [], 0.5)
    assert recorded(run, prompts, first, null) == first
    content = path.read_text()
    moved = Confirmation(CopyTest("image", 0.503, references=references), (0.702, 0.598, 0.1))
    assert recorded(Run.load(run.folder), prompts, {2: moved}, null) == first
    assert path.read_text() == content
    path.write_text(content.replace('"ordinary_copies": [0]', '"ordinary_copies": null'))
    assert path.read_text() != content
    assert recorded(Run.load(run.folder), prompts, {2: moved}, null) == first
    assert path.read_text() == content  # what an earlier version did not record is found again
    other = replace(moved, test=CopyTest("image", 0.65, references=references))
    with pytest.raises(RunError, match="judged in another way"):
        recorded(run, prompts, {2: other}, null)
