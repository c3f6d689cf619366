"""Which training image belongs to which prompt. No prompt ever gets its neighbour's image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unmemorize import MetricError, Prompt
from unmemorize.metrics import match_references
from unmemorize.metrics._references import reference_name

ADDRESSES = [f"http://x/{name}.jpg" for name in ("dog", "cat", "cow", "hen", "fox")]
ANIMALS = [Prompt(f"prompt {index}", url=url) for index, url in enumerate(ADDRESSES)]
UNNAMED = [Prompt(f"prompt {index}") for index in range(5)]


def put(folder: Path, names: Sequence[str]) -> Path:
    """Write images, each of another colour."""
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), shade).save(folder / name)
    return folder


def matches(folder: Path, prompts: Sequence[Prompt]) -> dict[int, list[str]]:
    matched = match_references(folder, prompts).images
    return {
        index: [path.relative_to(folder).as_posix() for path in paths]
        for index, paths in matched.items()
    }


@pytest.mark.parametrize(
    "names",
    [
        [f"{reference_name(index, url)}.jpg" for index, url in enumerate(ADDRESSES)],
        [f"{index:04d}_{Path(url).stem}.jpg" for index, url in enumerate(ADDRESSES)],
        [f"{index:04d}_{Path(url).stem}.png" for index, url in enumerate(ADDRESSES, 1)],
        [Path(url).name for url in ADDRESSES],
        [f"{Path(url).stem}.webp" for url in ADDRESSES],
        [f"{reference_name(9 - index, url)}.jpg" for index, url in enumerate(ADDRESSES)],
    ],
    ids=["fetched", "from 0", "by 0.1", "names", "other endings", "of another list"],
)
@pytest.mark.parametrize("dead", [[], [0], [4], [0, 1], [0, 4], [2]], ids=str)
def test_dead_links_shift_no_image(tmp_path: Path, names: list[str], dead: list[int]) -> None:
    """With the first link dead, every prompt got its neighbour's image."""
    alive = {index: [name] for index, name in enumerate(names) if index not in dead}
    put(tmp_path, [name for index, name in enumerate(names) if index not in dead])
    assert matches(tmp_path, ANIMALS) == alive


@pytest.mark.parametrize(
    "name", ["{:04d}_x.png", "dl_{:03d}.jpg", "{}.png", "img{:05d}_01.png", "{}/a.png"]
)
@pytest.mark.parametrize(
    ("numbers", "first"),
    [
        ([0, 1, 2, 3, 4], 0),
        ([1, 2, 3, 4, 5], 1),
        ([0, 2, 3], 0),  # published numbers have gaps
        ([2, 5], 1),
        ([0], 0),
        ([5], 1),
    ],
    ids=str,
)
def test_numbers_that_can_mean_one_thing(
    tmp_path: Path, name: str, numbers: list[int], first: int
) -> None:
    put(tmp_path, [name.format(number) for number in numbers])
    assert matches(tmp_path, UNNAMED) == {
        number - first: [name.format(number)] for number in numbers
    }


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1, 2, 3, 4], "reach from 1 to 4, so they may count the 5 prompts"),
        ([3], "reach from 3 to 3, so they may count"),
        ([0, 1, 2, 3, 4, 5], "reach from 0 to 5, but the run has 5 prompts"),
        ([1, 6], "reach from 1 to 6, but the run has 5 prompts"),
        ([2041], "belong to another list"),
    ],
    ids=str,
)
def test_numbers_that_can_mean_several_things_are_refused(
    tmp_path: Path, numbers: list[int], message: str
) -> None:
    put(tmp_path, [f"{number:04d}_x.png" for number in numbers])
    with pytest.raises(MetricError, match=rf"{message}.*column images of the prompt file"):
        match_references(tmp_path, UNNAMED)


def test_the_pack_of_wen(tmp_path: Path) -> None:
    """It has a folder for each prompt, some of them missing."""
    put(tmp_path, ["0/a.png", "0/b.png", "3/a.png", "4/1.png", "notes/x.png"])
    assert matches(tmp_path, UNNAMED) == {0: ["0/a.png", "0/b.png"], 3: ["3/a.png"], 4: ["4/1.png"]}
    assert [path.parent.name for path in match_references(tmp_path, UNNAMED).unmatched] == ["notes"]


def test_listed_names_count_before_numbers(tmp_path: Path) -> None:
    put(tmp_path, ["0001.png", "0000.png"])
    prompts = [
        Prompt("a", images=(Path("elsewhere/0001.png"),)),
        Prompt("b", images=(Path("0000.png"), Path("0001.png"))),
    ]
    assert matches(tmp_path, prompts) == {0: ["0001.png"], 1: ["0000.png", "0001.png"]}


def test_a_number_is_no_address(tmp_path: Path) -> None:
    """The address http://x/0.jpg of prompt 1 does not make 0.png its image."""
    prompts = [Prompt("a", url="http://x/1.jpg"), Prompt("b", url="http://x/0.jpg")]
    put(tmp_path, ["0.png", "1.png"])
    assert matches(tmp_path, prompts) == {0: ["0.png"], 1: ["1.png"]}


def test_equal_names_of_different_addresses_need_a_number(tmp_path: Path) -> None:
    prompts = [
        Prompt("a", url="http://x/image.jpg"),
        Prompt("b", url="http://y/image.jpg"),
        Prompt("c", url="http://x/dog.jpg"),
    ]
    put(tmp_path, ["0002_image.jpg"])
    with pytest.raises(MetricError, match=r"0002_image\.jpg: its name fits the prompts 0, 1"):
        match_references(tmp_path, prompts)
    put(tmp_path, ["0003_dog.jpg"])  # this one tells that they are counted from 1
    assert matches(tmp_path, prompts) == {1: ["0002_image.jpg"], 2: ["0003_dog.jpg"]}
    put(tmp_path, ["image.jpg"])
    with pytest.raises(MetricError, match=r"image\.jpg: its name fits the prompts 0, 1"):
        match_references(tmp_path, prompts)


def test_prompts_with_the_same_address_share_its_image(tmp_path: Path) -> None:
    prompts = [Prompt("a", url="http://x/i.jpg"), Prompt("b"), Prompt("c", url="http://x/i.jpg")]
    put(tmp_path, [f"{reference_name(2, 'http://x/i.jpg')}.jpg"])
    assert set(matches(tmp_path, prompts)) == {0, 2}


def test_copies_of_an_image_count_once(tmp_path: Path) -> None:
    """Two copies of one image would pass for the common layout of a template."""
    (tmp_path / "0").mkdir()
    for name in ("b.png", "a.png"):
        Image.new("L", (4, 4), 7).save(tmp_path / "0" / name)
    assert matches(tmp_path, UNNAMED) == {0: ["0/a.png"]}


def test_images_of_no_prompt_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, ["dog.jpg", *(f"other-{number:02}.png" for number in range(12))])
    matched = match_references(tmp_path, ANIMALS)
    assert (matched.by, list(matched.images), len(matched.unmatched)) == ("name", [0], 12)
    assert "12 images belong to no prompt: other-00.png, other-01.png" in caplog.text
    assert "other-10" not in caplog.text


@pytest.mark.parametrize("folder", [["a.png"], Image.new("RGB", (2, 2)), 3, ""])
def test_what_is_no_folder_is_refused(folder: Any) -> None:
    with pytest.raises(MetricError, match="not the path of a folder of training images"):
        match_references(folder, [Prompt("a")])


def test_folders_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="not a folder with images"):
        match_references(tmp_path / "none", UNNAMED)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(MetricError, match="not a folder with images"):
        match_references(tmp_path, UNNAMED)
    put(tmp_path, ["x.png"])
    with pytest.raises(MetricError, match="no name there tells which prompt"):
        match_references(tmp_path, UNNAMED)


def test_addresses_that_are_none_are_no_obstacle(tmp_path: Path) -> None:
    put(tmp_path, ["0000_a.png"])
    prompts = [Prompt("a", url="http://[broken"), Prompt("b", url="")]
    assert matches(tmp_path, prompts) == {0: ["0000_a.png"]}
