from pathlib import Path

import pytest

from server import CONTENT, SHA256, Server, picture
from unmemorize import FetchError, Prompt
from unmemorize.metrics import download, fetch_images, match_references
from unmemorize.metrics._download import Fetched
from unmemorize.metrics._images import image_files
from unmemorize.metrics._references import reference_name


def test_a_file_comes_whole_and_is_kept(address: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    download(
        f"{address}/file",
        tmp_path / "to" / "it",
        sha256=SHA256.upper(),
        progress=lambda *at: seen.append(at),
    )
    assert (tmp_path / "to" / "it").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    download(f"{address}/file", tmp_path / "to" / "it", sha256=SHA256)
    assert len(Server.ranges) == 1


def test_an_interrupted_download_is_resumed(address: str, tmp_path: Path) -> None:
    path, part = tmp_path / "it", tmp_path / "it.part"
    with pytest.raises(FetchError, match=f"{len(CONTENT) // 2} bytes are kept"):
        download(f"{address}/broken", path)
    assert part.stat().st_size == len(CONTENT) // 2
    download(f"{address}/file", path, sha256=SHA256)
    assert Server.ranges == [None, f"bytes={len(CONTENT) // 2}-"]
    assert path.read_bytes() == CONTENT
    assert not part.exists()


def test_a_server_without_ranges_sends_everything_again(address: str, tmp_path: Path) -> None:
    (tmp_path / "it.part").write_bytes(b"old")
    download(f"{address}/stubborn", tmp_path / "it", sha256=SHA256)
    assert (tmp_path / "it").read_bytes() == CONTENT


def test_a_whole_part_is_taken(address: str, tmp_path: Path) -> None:
    (tmp_path / "it.part").write_bytes(CONTENT)
    download(f"{address}/file", tmp_path / "it", sha256=SHA256)
    assert (tmp_path / "it").read_bytes() == CONTENT


def test_another_file_is_not_taken(address: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"has SHA-256 {SHA256}, expected 00"):
        download(f"{address}/file", tmp_path / "it", sha256="00")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "message"), [("/none", "404"), ("/file", "larger than 100 bytes")]
)
def test_failures_are_explained(address: str, tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        download(f"{address}{path}", tmp_path / "it", largest=100)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://x/y", "http://127.0.0.1:1/closed", "http://[broken"]
)
def test_other_addresses_are_not_followed(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError, match="cannot be downloaded"):
        download(url, tmp_path / "it")


def test_images_are_numbered_like_their_prompts_and_failures_named(
    address: str, tmp_path: Path
) -> None:
    urls = [
        f"{address}/picture.png",
        f"{address}/gone.jpg",
        None,
        f"{address}/text.jpg",
        "file:///etc/hostname",
    ]
    prompts = [Prompt("p", url=url) for url in urls]
    fetched = fetch_images(prompts, tmp_path)
    name = f"{reference_name(0, f'{address}/picture.png')}.jpg"
    assert name.startswith("0000_picture_")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == picture()
    assert fetched.available == 1
    assert list(fetched.failed) == [1, 3, 4]
    assert "404" in fetched.failed[1]
    assert "not readable as an image" in fetched.failed[3]
    assert "only http and https" in fetched.failed[4]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FetchError, match="cannot be written"):
        fetch_images(prompts, tmp_path / "file")
    with pytest.raises(FetchError, match="is a folder"):
        download(f"{address}/file", tmp_path)
    (tmp_path / "file").unlink()
    before = len(Server.ranges)
    assert fetch_images(prompts[:1], tmp_path).available == 1
    assert len(Server.ranges) == before


def test_another_list_into_the_same_folder_takes_no_image_of_the_first(
    address: str, tmp_path: Path
) -> None:
    """Prompt 0 of the second list was once given the image of prompt 0 of the first."""
    first, second = f"{address}/picture.png", f"{address}/odd"
    fetch_images([Prompt("p", url=first)], tmp_path)
    prompts = [Prompt("p", url=second), Prompt("q", url=first)]
    assert fetch_images(prompts, tmp_path).available == 2
    matched = match_references(tmp_path, prompts)
    assert [matched.images[index][0].suffix for index in (0, 1)] == [".png", ".jpg"]
    assert len(matched.images[1]) == 1


def test_the_first_address_that_answers_is_taken(address: str, tmp_path: Path) -> None:
    gone, there = f"{address}/gone.jpg", f"{address}/picture.png"
    both = Prompt("p", url=gone, more_urls=(there, f"{address}/odd"))
    assert fetch_images([both], tmp_path) == Fetched(1, {})
    assert [path.stem for path in tmp_path.iterdir()] == [reference_name(0, there)]
    assert match_references(tmp_path, [Prompt("o"), both]).images.keys() == {1}
    before = len(Server.ranges)
    assert fetch_images([both], tmp_path).available == 1
    assert len(Server.ranges) == before
    none = Prompt("p", url=gone, more_urls=("file:///etc/hostname",))
    (problem,) = fetch_images([none], tmp_path).failed.values()
    assert "404" in problem
    assert "only http and https" in problem


def test_addresses_are_quoted(address: str, tmp_path: Path) -> None:
    """A space or a letter beyond ASCII made a dead link of an address."""
    for url in (f"{address}/a picture\u00e9.png", f"{address}/a%20picture%C3%A9.png "):
        (tmp_path / "it").unlink(missing_ok=True)
        download(url, tmp_path / "it")
        assert (tmp_path / "it").read_bytes() == picture()


def test_other_formats_become_png(address: str, tmp_path: Path) -> None:
    assert fetch_images([Prompt("p", url=f"{address}/odd")], tmp_path).available == 1
    (path,) = tmp_path.iterdir()
    assert (path.name[:9], path.suffix) == ("0000_odd_", ".png")
    assert len(image_files(tmp_path)) == 1
