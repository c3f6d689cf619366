"""What is attacked: which images are the same, and which controls they meet."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from colours import noise
from unmemorize import AuditError, Prompt
from unmemorize.audit import Target, distinct_controls, targets_of
from unmemorize.audit._targets import (
    controls_of,
    joined,
    refuse_controls_among,
    refuse_repeated,
    remarks_on,
    units_of,
)
from unmemorize.audit._task import measure_of


@pytest.fixture(name="template")
def template_fixture(tmp_path: Path) -> Prompt:
    """Two images whose lower halves agree."""
    files = []
    for number in range(2):
        image = noise(7, (32, 32))
        image.paste((90 * number, 200, 255 * number), (0, 0, 32, 16))
        files.append(tmp_path / f"layout {number}.png")
        image.save(files[-1])
    return Prompt("a mug", "TM", images=tuple(files))


def saved(folder: Path, name: str, seed: int) -> Path:
    noise(seed, (32, 32)).save(folder / name)
    return folder / name


def test_beside_other_images_a_template_is_one_whole_image(template: Prompt) -> None:
    (layout,) = targets_of([template])
    (whole,) = targets_of([template], whole=True)
    first, second = map(Image.open, template.images)
    assert (measure_of(layout), measure_of(whole)) == ("layout", "image")
    assert [image.tobytes() for image in whole.images] == [first.tobytes()]
    assert [image.tobytes() for image in whole.others] == [second.tobytes()]
    assert whole.key == layout.key
    assert remarks_on([layout]) == ()
    (said,) = remarks_on([whole])
    assert "as whole images, by the first of their images: 1." in said


def test_captions_of_the_same_pixels_are_one_image(template: Prompt, tmp_path: Path) -> None:
    paths = [
        saved(tmp_path, name, seed) for name, seed in (("a.png", 1), ("b.bmp", 1), ("c.png", 2))
    ]
    prompts = [Prompt(path.name, "VM", images=(path,)) for path in paths]
    # as a whole image, the first image of the template would be the same as that of this prompt
    alone = Prompt("the mug", "VM", images=template.images[:1])
    targets = targets_of([*prompts, template, alone])
    assert units_of(targets) == (0, 0, 2, 3, 4)
    assert joined(units_of(targets)) == ((0, 1), (2,), (3,), (4,))
    assert remarks_on(targets) == (
        "Prompts 0, 1 show the same image. It counts once, with the best of its captions.",
    )
    assert units_of(targets_of([*prompts, template, alone], whole=True)) == (0, 0, 2, 3, 3)


def test_templates_that_share_an_image_are_one() -> None:
    pictures = [noise(seed, (8, 8)) for seed in range(3)]
    target = Target(key="", prompt="", images=(pictures[0],))
    chained = [
        target,
        replace(target, images=(pictures[2],)),
        replace(target, others=(pictures[2],)),
    ]
    assert units_of(chained) == (0, 0, 0)
    assert units_of([chained[0], replace(target, images=(pictures[1],))]) == (0, 1)


def test_controls_are_attacked_from_as_many_captions(tmp_path: Path) -> None:
    files = [saved(tmp_path, f"{number}.png", number) for number in range(3)]
    targets, indices = controls_of(files, [("red", "blue"), ("green",)])
    assert [target.prompt for target in targets] == ["red", "blue", "green", "red", "blue"]
    assert indices == (0, 0, 1, 2, 2)
    assert len({target.key for target in targets}) == 5
    assert targets[0].images[0].tobytes() == Image.open(files[0]).tobytes()


@pytest.mark.parametrize(
    ("controls", "problem"),
    [
        ("one.png", r"'one.png': a value of type str\. Give a list of the paths"),
        (Path("one.png"), r"Give a list of the paths of control images\."),
        (Image.new("RGB", (2, 2)), r"Give a list of the paths of control images\."),
        ([Image.new("RGB", (2, 2))], r"not the path of a control image\."),
    ],
)
def test_controls_are_paths(controls: Any, problem: str) -> None:
    with pytest.raises(AuditError, match=problem):
        distinct_controls(controls)


def test_repeated_controls_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [saved(tmp_path, name, 1) for name in ("a.png", "b.bmp")]
    files += [saved(tmp_path, "other.png", 2), tmp_path / "copy.png"]
    shutil.copyfile(files[0], files[-1])
    with caplog.at_level(logging.WARNING):
        assert distinct_controls(files) == (files[0], files[2])
    assert "2 of 4 controls show the same image" in caplog.text
    caplog.clear()
    assert distinct_controls(files[:1]) == (files[0],)
    assert not caplog.records
    with pytest.raises(AuditError, match=r"b\.bmp: it shows the same image as .*a\.png"):
        refuse_controls_among([], files)
    with pytest.raises(AuditError, match=r"b\.bmp: it is among the controls"):
        refuse_controls_among([tmp_path / "gone.png", files[1]], files[2:])
    with pytest.raises(AuditError, match=r"b\.bmp: it shows the same image as .*Name it once"):
        refuse_repeated(files[:2])
