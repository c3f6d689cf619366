"""The one reader of image files: what a viewer shows, as 8-bit sRGB.

| what Pillow hands over        | what `to_rgb` makes of it                                     |
|-------------------------------|---------------------------------------------------------------|
| EXIF orientation              | turned upright                                                |
| 1 bit, palette, greyscale     | the colours they stand for                                    |
| 16 bits (I;16, I)             | v / 257, rounded; 16-bit colour is cut to its high byte       |
| 32 bits (I)                   | refused, since nothing says which value is white              |
| floating point (F)            | values in [0, 1] times 255; others are refused                |
| alpha, transparent colours    | laid over white                                               |
| CMYK, inverted by Adobe or not| the light that the inks leave, or by their colour profile     |
| LAB                           | by its definition (D50)                                       |
| colour profile                | converted to sRGB; one that is damaged is named and ignored   |
| animation                     | the first frame                                               |

Transparent images lie on white because img2dataset, which downloaded LAION, lays them on white:
this is what models were trained on.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from unmemorize._errors import MetricError
from unmemorize._files import refuse_other_type

log = logging.getLogger(__name__)

_FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "ICO",
)
"""Formats of pictures; those of MPO begin as a JPEG. Pillow also opens documents, and starts
other programs for some of them."""
_WHITE_OF_16_BITS = 65535
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each EXIF orientation upright."""


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as upright 8-bit sRGB.

    Raises:
        MetricError: the file is missing, damaged or too large, not an image, or an image whose
            values have no meaning as colours.
    """
    with open_image(path, str(path)) as image:
        return to_rgb(image, str(path))


@contextmanager
def open_image(source: str | Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open and decode an image file as Pillow hands it over.

    Args:
        source: the file.
        name: what errors call it.

    Raises:
        MetricError: the file is missing, damaged or too large, or not an image.
    """
    try:
        image = Image.open(source, formats=_FORMATS)
    except Exception as problem:  # decoders raise anything when a file is damaged
        raise _unreadable(name, problem) from problem
    with image:
        try:
            image.load()
        except Exception as problem:
            raise _unreadable(name, problem) from problem
        if 0 in image.size:
            raise _unreadable(name, f"{image.width} x {image.height} pixels")
        yield image


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Turn an image into upright 8-bit sRGB without metadata; see the table of this module.

    Args:
        image: of any mode.
        name: what errors and warnings call it.

    Raises:
        MetricError: it is no image of Pillow, or its values have no meaning as colours.

    Examples:
        >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 51))).getpixel((0, 0))
        (255, 204, 204)
    """
    refuse_other_type(
        "image", image, Image.Image, MetricError, "Open it first: PIL.Image.open(PATH)."
    )
    opaque = _over_white(_eight_bits(image, name))
    rgb = _upright(_to_srgb(opaque, image.info.get("icc_profile"), name), image, name)
    # a copy, because converting an image to its own mode returns it with its metadata
    result = rgb.copy()
    result.info = {}
    return result


def _unreadable(name: str, problem: object) -> MetricError:
    return MetricError(
        f"{name}: not readable as an image ({problem}). "
        "Put the image there, or correct the prompt file."
    )


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Bring greyscale images of other depths to 8 bits. A transparent grey stays transparent."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not ((values >= 0) & (values <= 1)).all():
            raise MetricError(
                f"{name}: its floating point values leave [0, 1], so nothing says which value is "
                "white. Save it with 8 bits."
            )
        white = 1
    elif image.mode == "I" and image.format != "PPM":  # there Pillow scales 16 bits to this range
        raise MetricError(
            f"{name}: nothing says which of its 32-bit values is white. Save it with 8 bits."
        )
    else:
        white = _WHITE_OF_16_BITS
    grey = Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    return grey


def _over_white(image: Image.Image) -> Image.Image:
    """Return an image without alpha. Greyscale stays greyscale, as its colour profile needs."""
    if image.mode == "1":
        image = image.convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode in ("P", "PA") else image
    grey = image.mode in ("L", "LA")
    colours = image.convert("RGBA")
    over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours)
    return over_white.getchannel("R") if grey else over_white.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    if image.mode == "LAB":
        return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile:
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = embedded.profile.xcolor_space.strip()
            # grey images with an RGB profile are common
            mode = "RGB" if (image.mode, space) == ("L", "RGB") else image.mode
            return _converted(image.convert(mode), embedded)
        except (OSError, ImageCms.PyCMSError) as problem:
            log.warning("%s: its colour profile cannot be used (%s)", name, problem)
    return image.convert("RGB")


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None  # only in-place conversion returns nothing
    return converted


def _upright(rgb: Image.Image, image: Image.Image, name: str) -> Image.Image:
    """Turn the colours of an image by its EXIF orientation."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as problem:  # the pixels are whole even if the metadata are not
        log.warning("%s: its metadata are damaged (%s), so it may lie on its side", name, problem)
        return rgb
    return rgb if turn is None else rgb.transpose(turn)
