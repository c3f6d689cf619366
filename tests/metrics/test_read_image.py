"""What each kind of image file shows, with values that were computed by hand."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from unmemorize import MetricError
from unmemorize.metrics import pixel_correlation, read_image, read_references, to_rgb
from unmemorize.metrics._masked import layout_mask

Pixel = tuple[int, int, int]
RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def shown(content: bytes, folder: Path) -> list[list[Pixel]]:
    """Return the rows of pixels that the reader makes of a file."""
    (folder / "image").write_bytes(content)
    image = read_image(folder / "image")
    assert (image.mode, image.info) == ("RGB", {})
    return [[tuple(pixel) for pixel in row] for row in np.asarray(image).tolist()]


def one_row(mode: str, pixels: list[Any]) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def palette_image(**_: Any) -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    return image


def png(colour: int, depth: int, data: bytes, *chunks: tuple[bytes, bytes], width: int) -> bytes:
    """Write a PNG file of one row by hand."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)),
            *(chunk(*named) for named in chunks),
            chunk(b"IDAT", zlib.compress(b"\0" + data)),
            chunk(b"IEND", b""),
        )
    )


GREY_16 = np.array([[0, 128, 129, 32896, 65535]], dtype=np.uint16)
"""By 257 these are 0, 0.498, 0.502, 128 and 255."""
GREY_16_SHOWN = [(0,) * 3, (0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]

FILES: dict[str, tuple[Callable[[], bytes], list[Pixel]]] = {
    "RGB": (lambda: saved(one_row("RGB", [(1, 2, 3)]), "PNG"), [(1, 2, 3)]),
    "1 bit": (lambda: saved(one_row("1", [0, 255]), "PNG"), [BLACK, WHITE]),
    "1 bit, TIFF": (lambda: saved(one_row("1", [0, 255]), "TIFF"), [BLACK, WHITE]),
    "4 bits": (lambda: png(0, 4, b"\x0f", width=2), [BLACK, WHITE]),
    "grey": (lambda: saved(one_row("L", [7]), "PNG"), [(7, 7, 7)]),
    "16 bits, PNG": (lambda: saved(Image.fromarray(GREY_16), "PNG"), GREY_16_SHOWN),
    "16 bits, TIFF": (lambda: saved(Image.fromarray(GREY_16), "TIFF"), GREY_16_SHOWN),
    "16 bits, PGM": (lambda: saved(Image.fromarray(GREY_16), "PPM"), GREY_16_SHOWN),
    "16 bits, JPEG 2000": (lambda: saved(Image.fromarray(GREY_16), "JPEG2000"), GREY_16_SHOWN),
    "16 bits and a transparent grey": (
        lambda: png(
            0, 16, struct.pack(">HH", 257, 514), (b"tRNS", struct.pack(">H", 257)), width=2
        ),
        [WHITE, (2, 2, 2)],
    ),
    "16 bits, colour": (
        lambda: png(2, 16, struct.pack(">3H", 0, 32896, 65535), width=1),
        [(0, 128, 255)],
    ),
    "floats": (
        lambda: saved(Image.fromarray(np.array([[0, 0.2, 1]], dtype=np.float32)), "TIFF"),
        [BLACK, (51, 51, 51), WHITE],
    ),
    # 0.2 red + 0.8 white, nothing of the green below alpha 0, blue alone
    "alpha": (
        lambda: saved(one_row("RGBA", [(255, 0, 0, 51), (0, 255, 0, 0), (0, 0, 255, 255)]), "PNG"),
        [(255, 204, 204), WHITE, BLUE],
    ),
    "alpha, WEBP": (
        lambda: saved(one_row("RGBA", [(255, 0, 0, 51), (0, 0, 0, 0)]), "WEBP", lossless=True),
        [(255, 204, 204), WHITE],
    ),
    "grey and alpha": (
        lambda: saved(one_row("LA", [(0, 51), (9, 0), (9, 255)]), "PNG"),
        [(204,) * 3, WHITE, (9, 9, 9)],
    ),
    "a transparent colour": (
        lambda: saved(one_row("RGB", [RED, GREEN]), "PNG", transparency=RED),
        [WHITE, GREEN],
    ),
    "a transparent grey": (
        lambda: saved(one_row("L", [7, 8]), "PNG", transparency=7),
        [WHITE, (8, 8, 8)],
    ),
    "a transparent bit": (
        lambda: saved(one_row("1", [0, 255]), "PNG", transparency=0),
        [WHITE, WHITE],
    ),
    "palette": (lambda: saved(palette_image(), "PNG"), [RED, GREEN, BLUE]),
    "palette, one transparent": (
        lambda: saved(palette_image(), "PNG", transparency=1),
        [RED, WHITE, BLUE],
    ),
    "palette, half transparent": (
        lambda: saved(palette_image(), "PNG", transparency=bytes([51, 0, 255])),
        [(255, 204, 204), WHITE, BLUE],
    ),
    "palette, GIF": (
        lambda: saved(palette_image(), "GIF", transparency=1),
        [RED, WHITE, BLUE],
    ),
    # (255 - ink) (255 - black) / 255
    "CMYK": (
        lambda: saved(one_row("CMYK", [(0, 255, 255, 0), (51, 0, 0, 51)]), "TIFF"),
        [RED, (163, 204, 204)],
    ),
    "first frame": (
        lambda: saved(
            one_row("RGB", [RED]), "GIF", save_all=True, append_images=[one_row("RGB", [BLUE])]
        ),
        [RED],
    ),
    "first frame, PNG": (
        lambda: saved(
            one_row("RGB", [RED]), "PNG", save_all=True, append_images=[one_row("RGB", [BLUE])]
        ),
        [RED],
    ),
    "first page": (
        lambda: saved(
            one_row("RGB", [RED]), "TIFF", save_all=True, append_images=[one_row("RGB", [BLUE])]
        ),
        [RED],
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_show_what_a_viewer_shows(kind: str, tmp_path: Path) -> None:
    content, pixels = FILES[kind]
    assert shown(content(), tmp_path) == [pixels]


@pytest.mark.parametrize("form", ["CMYK", "YCCK"])
def test_cmyk_jpegs_are_inverted_as_adobe_does(form: str, tmp_path: Path) -> None:
    """Ink of 0 is stored as 255 then, and a reader that forgets it shows the negative."""
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    content = saved(image, "JPEG", quality=100)
    assert b"Adobe" in content
    if form == "YCCK":  # the same bytes 255, 0, 0, 255, read as Y, Cb, Cr and K
        marker = content.index(b"Adobe") + 11
        content = content[:marker] + b"\x02" + content[marker + 1 :]
        # Y + 1.402 (Cr - 128) = 76 red, 0 beyond green, Y + 1.772 (Cb - 128) = 28 blue; as ink
        # 255 minus these, and inverted like K
        expected = (179, 0, 227)
    else:
        expected = RED
    assert np.abs(np.subtract(shown(content, tmp_path)[0][0], expected)).max() <= 3


def test_lab_is_read_by_its_definition(tmp_path: Path) -> None:
    """L* of 100 is white, of 0 black, and of 53.4 the middle grey 128, when a* and b* are 0."""
    content = saved(one_row("LAB", [(255, 128, 128), (0, 128, 128), (137, 128, 128)]), "TIFF")
    difference = np.subtract(shown(content, tmp_path), [[WHITE, BLACK, (128, 128, 128)]])
    assert np.abs(difference).max() <= 1


ORIENTATIONS = {
    1: [[1, 2], [3, 4], [5, 6]],
    2: [[2, 1], [4, 3], [6, 5]],
    3: [[6, 5], [4, 3], [2, 1]],
    4: [[5, 6], [3, 4], [1, 2]],
    5: [[1, 3, 5], [2, 4, 6]],
    6: [[5, 3, 1], [6, 4, 2]],
    7: [[6, 4, 2], [5, 3, 1]],
    8: [[2, 4, 6], [1, 3, 5]],
}
"""How the stored rows 1 2, 3 4, 5 6 are shown."""


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_turned_upright(orientation: int, form: str, tmp_path: Path) -> None:
    stored = Image.fromarray(np.array([[1, 2], [3, 4], [5, 6]], dtype=np.uint8) * 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    options = lossless.get(form, {})
    rows = shown(saved(stored.convert("RGB"), form, exif=exif, **options), tmp_path)
    numbers = np.round(np.array(rows)[..., 0] / 40).astype(int)
    assert numbers.tolist() == ORIENTATIONS[orientation]


def test_a_photograph_on_its_side_is_the_same_picture(tmp_path: Path) -> None:
    """It had a similarity of .27 to itself."""
    upright = Image.effect_noise((48, 32), 90).resize((96, 64)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0
    )
    (training,) = read_references([tmp_path / "a.jpg"]).images
    assert pixel_correlation([upright], [training])[0] > 0.99


def swapped_profile() -> bytes:
    """An sRGB profile whose red and green primaries have changed places."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", content, 128)[0]
    at = {bytes(content[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = at[b"rXYZ"], at[b"gXYZ"]
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)


def test_colour_profiles_are_converted_to_srgb(tmp_path: Path) -> None:
    """In this profile, red is called green. Only a conversion shows the right colour."""
    for form in ("PNG", "TIFF"):
        content = saved(one_row("RGB", [RED, GREEN, BLUE]), form, icc_profile=swapped_profile())
        difference = np.subtract(shown(content, tmp_path), [[GREEN, RED, BLUE]])
        assert np.abs(difference).max() <= 1


def test_profiles_apply_below_transparency_and_palettes(tmp_path: Path) -> None:
    transparent = saved(
        one_row("RGBA", [(255, 0, 0, 255), (1, 2, 3, 0)]), "PNG", icc_profile=swapped_profile()
    )
    assert np.abs(np.subtract(shown(transparent, tmp_path), [[GREEN, WHITE]])).max() <= 1
    palette = saved(palette_image(), "PNG", icc_profile=swapped_profile())
    assert np.abs(np.subtract(shown(palette, tmp_path), [[GREEN, RED, BLUE]])).max() <= 1
    grey = saved(one_row("L", [0, 128, 255]), "PNG", icc_profile=swapped_profile())
    expected = [[BLACK, (128, 128, 128), WHITE]]
    assert np.abs(np.subtract(shown(grey, tmp_path), expected)).max() <= 1


def test_profiles_that_do_not_fit_are_named_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for mode, pixel, profile in (
        ("RGB", RED, b"no profile"),
        ("CMYK", (0, 255, 255, 0), swapped_profile()),
    ):
        caplog.clear()
        content = saved(one_row(mode, [pixel]), "TIFF", icc_profile=profile)
        assert shown(content, tmp_path) == [[RED]]
        assert "image: its colour profile cannot be used" in caplog.text


def test_converted_images_carry_no_metadata_that_would_apply_again(tmp_path: Path) -> None:
    content = saved(one_row("RGB", [RED]), "PNG", icc_profile=swapped_profile())
    once = shown(content, tmp_path)
    again = saved(read_image(tmp_path / "image"), "PNG")
    assert shown(again, tmp_path) == once


def png_of_size(width: int, height: int) -> bytes:
    content = bytearray(saved(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


NOISE = Image.effect_noise((40, 40), 90).convert("RGB")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"

UNREADABLE = {
    "nothing": b"",
    "text": b"no image",
    "half a PNG": saved(NOISE, "PNG")[:900],
    "half a JPEG": saved(NOISE, "JPEG")[:600],
    "half a WEBP": saved(NOISE, "WEBP")[:300],
    "half a GIF": saved(NOISE, "GIF")[:500],
    "half a TIFF": saved(NOISE, "TIFF")[:900],
    "half a BMP": saved(NOISE, "BMP")[:900],
    "half a JPEG 2000": saved(NOISE, "JPEG2000")[:200],
    "half an AVIF": saved(NOISE, "AVIF")[:500],
    "a bomb": png_of_size(40_000, 40_000),
    "no width": png_of_size(0, 5),
    "a program": POSTSCRIPT,
    "32 bits": saved(Image.fromarray(np.array([[0, 9, 99]], dtype=np.int32)), "TIFF"),
    "floats up to 255": saved(Image.fromarray(np.array([[0, 9, 255]], dtype=np.float32)), "TIFF"),
    "floats that are none": saved(
        Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)), "TIFF"
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_shows_no_picture_is_refused_and_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "it.png").write_bytes(UNREADABLE[kind])
    with pytest.raises(MetricError, match=r"it\.png: "):
        read_image(tmp_path / "it.png")
    assert read_references([tmp_path / "it.png"]).unreadable == ("it.png",)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(MetricError, match="not readable as an image"):
            read_image(path)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_never_raise_another_error(form: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if form in ("GIF", "BMP") else {"exif": exif, "icc_profile": swapped_profile()}
    content = saved(NOISE, form, **options)
    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content)
        for place in random.integers(0, min(len(content), 900), 4):
            damaged[place] = random.integers(256)
        (tmp_path / "it").write_bytes(damaged)
        with suppress(MetricError):
            assert read_image(tmp_path / "it").mode == "RGB"


def test_damaged_metadata_do_not_hide_a_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30
    content = saved(Image.new("RGB", (8, 4), RED), "PNG", exif=damaged)
    with caplog.at_level(logging.WARNING):
        assert shown(content, tmp_path) == [[RED] * 8] * 4
    assert "image: its metadata are damaged" in caplog.text


def test_images_of_any_mode_can_be_compared() -> None:
    """Functions that take images of Pillow treat them like files."""
    colours = Image.effect_noise((16, 16), 90).convert("RGB")
    half = colours.copy()
    half.putalpha(128)
    on_white = Image.blend(Image.new("RGB", half.size, "white"), colours, 128 / 255)
    assert pixel_correlation([half], [on_white])[0] == pytest.approx(1, abs=1e-3)
    assert layout_mask([half, on_white]).all()
    assert to_rgb(half).mode == "RGB"
