from pathlib import Path

import pytest

from server import CONTENT, SHA256, Server, picture
from unmemorize import FetchError, Prompt
from unmemorize.metrics import download, fetch_images
from unmemorize.metrics._images import image_files


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
    assert [path.name for path in tmp_path.iterdir()] == ["0001_picture.jpg"]
    assert (tmp_path / "0001_picture.jpg").read_bytes() == picture()
    assert fetched.available == 1
    assert list(fetched.failed) == [2, 4, 5]
    assert "404" in fetched.failed[2]
    assert "only http and https" in fetched.failed[5]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FetchError, match="cannot be written"):
        fetch_images(prompts, tmp_path / "file")
    with pytest.raises(FetchError, match="is a folder"):
        download(f"{address}/file", tmp_path)
    (tmp_path / "file").unlink()
    before = len(Server.ranges)
    assert fetch_images(prompts[:1], tmp_path).available == 1
    assert len(Server.ranges) == before


def test_other_formats_become_png(address: str, tmp_path: Path) -> None:
    assert fetch_images([Prompt("p", url=f"{address}/odd")], tmp_path).available == 1
    assert [path.name for path in tmp_path.iterdir()] == ["0001_odd.png"]
    assert len(image_files(tmp_path)) == 1
