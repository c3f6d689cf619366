"""Pieces of HTML in which the page shows verdicts and pictures. All text in them is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from unmemorize.detection import Detection

_SIDE = 256
_QUALITY = 85
_TONES = {
    "memorized": "bad",
    "removed": "good",
    "reduced": "middle",
    "not removed": "bad",
    "found": "bad",
}
"""The colours of verdicts. Others are grey."""


@dataclass(frozen=True)
class Figure:
    """A picture with what stands below it.

    Args:
        image: the picture; None for one that is not shown.
        caption: what it is.
    """

    image: Image.Image | None
    caption: str


def figures(label: str, shown: Iterable[Figure]) -> str:
    """Return pictures in a row that wraps.

    Args:
        label: what they are, for people who do not see them.
        shown: the pictures.
    """
    items = "".join(f"<li>{_figure(label, each)}</li>" for each in shown)
    return f'<ul class="pictures" aria-label="{escape(label)}">{items}</ul>'


def _figure(label: str, figure: Figure) -> str:
    from unmemorize.report import data_url  # late: its libraries load while the page is open

    caption = escape(figure.caption)
    if figure.image is None:
        content = '<div class="stopped" role="img" aria-label="stopped">stopped</div>'
    else:
        url = data_url(figure.image.convert("RGB"), _SIDE, _QUALITY)
        content = f'<img src="{url}" alt="{escape(label)}: {caption}">'
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def verdict(status: str, text: str, about: str = "") -> str:
    """Return a verdict: a label, a sentence, and the prompt that it is about."""
    tone = _TONES.get(status, "neutral")
    title = f'<p class="about">{escape(about)}</p>' if about else ""
    return (
        f'<p class="verdict"><strong class="label {tone}">{escape(status)}</strong> '
        f"{escape(text)}</p>{title}"
    )


def card(*parts: str) -> str:
    """Return one entry of a list of verdicts."""
    return f'<article class="card">{"".join(parts)}</article>'


def sentence(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def about_pack(digest: str) -> str:
    """Return what to do with a pack of evidence, by its SHA-256."""
    return sentence(
        f"SHA-256 of evidence.zip: {digest}. Keep it apart from the pack: it shows later that "
        "nothing changed. These files go when the page is stopped, so download what you want to "
        "keep."
    )


def headline(text: str) -> str:
    """Return the first sentence of a result."""
    return f"<h2>{escape(text)}</h2>"


def command(text: str, line: str) -> str:
    """Return a sentence that ends with a command."""
    return f"<p>{escape(text)}</p><pre tabindex=0><code>{escape(line)}</code></pre>"


def working(text: str) -> str:
    """Return what is shown while work waits or goes on."""
    return f'<p class="working" role="status">{escape(text)}</p>'


def problem(text: str) -> str:
    """Return an error in words."""
    return f'<p class="problem" role="alert">{escape(text)}</p>'


def gauge(detection: Detection) -> str:
    """Draw a score as a bar from 0 to twice tau, with a line at tau."""
    css_class = "gauge hot" if detection.memorized else "gauge"
    score, tau = detection.score, detection.tau
    width = 100 * max(0.0, min(1.0, score / (2 * tau)))
    text = f"{detection.measure} {score:.4g}; the line is its level, tau {tau:.4g}"
    return (
        f'<div class="{css_class}" role="img" aria-label="{text}">'
        f'<div class="bar" style="width:{width:.1f}%"></div>'
        f'<div class="tau" style="left:50%"></div></div>'
        f'<p class="small">{text}</p>'
    )


def scored(images: Sequence[Image.Image], scores: Sequence[float]) -> list[Figure]:
    """Return images with their copy scores, the highest first."""
    ranked = sorted(range(len(images)), key=lambda row: -scores[row])
    return [Figure(images[row], f"copy score {scores[row]:.2f}") for row in ranked]
