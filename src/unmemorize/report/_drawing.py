"""The look that all plots share, and their way into the page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#667080"
"""The colour of text and lines. In SVG it stands for the text colour of the page, see `to_svg`."""
COLOURS = ("#e4572e", "#f2a541", "#b07cc6", "#8d99ae", "#2e86ab", "#55a630")
HOT, COOL = COLOURS[0], COLOURS[4]
"""With the memory, and with its neurons off."""
_WIDTH = 7.2
"""Inches; the page scales plots to its own width."""
_LONGEST_LABEL = 30
_STYLE: Any = {
    "svg.hashsalt": "unmemorize",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,
}


@contextmanager
def plotting() -> Iterator[None]:
    """Set the style of plots. Prompts and groups are drawn as they are, in any script."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # the text stays text in the SVG, so the fonts of the browser count, not those of Matplotlib
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure of a height in inches, with axes in the colours of the page."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    return figure, axes


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, the same text for the same figure.

    It is transparent and takes the text colour of the page, which may be light or dark.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def short_label(name: str) -> str:
    """Return a name as a label of a plot.

    Matplotlib leaves labels out that begin with an underscore, hence the space in front.

    Examples:
        >>> short_label("_hidden")
        ' _hidden'
    """
    short = name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 3] + "..."
    return f" {short}" if short.startswith("_") else short


def short_layer(path: str) -> str:
    """Return a layer's path without what the paths of all layers have in common.

    Examples:
        >>> short_layer("down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v")
        'down 0.1.0'
    """
    parts = path.split(".")
    numbers = ".".join(part for part in parts if part.isdigit())
    return f"{parts[0].removesuffix('_blocks').removesuffix('_block')} {numbers}".strip()
