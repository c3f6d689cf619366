"""What `_recomputed` reads from the files of a pack, and how it turns counts into rates."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import beta

from unmemorize.report._recomputed_distances import Array


def parsed(name: str, content: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        name: of the file, for the error.
        content: the object, or a line of the file.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{name}: {problem}") from problem
    if not isinstance(value, dict):
        raise ValueError(f"{name}: holds {content[:20]!r}, not an object")
    return value


def settings_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a mitigation in its manifest."""
    try:
        settings: dict[str, Any] = manifest["settings"]["settings"]
    except (KeyError, TypeError) as problem:
        raise ValueError("manifest.json: holds no settings of a mitigation") from problem
    return settings


def rate(name: str, copies: int, images: int) -> dict[str, Any]:
    """Return a count with its rate and its exact interval, per 1,000; nothing without images."""
    if not images:
        return {}
    low = beta.ppf(0.025, copies, images - copies + 1) if copies else 0.0
    high = beta.ppf(0.975, copies + 1, images - copies) if copies < images else 1.0
    return {
        f"{name}.copies": copies,
        f"{name}.images": images,
        f"{name}.per_1000": 1000 * copies / images,
        f"{name}.low": 1000 * float(low),
        f"{name}.high": 1000 * float(high),
    }


def percent(share: float) -> str:
    """Print a confidence, rounded down."""
    return f"{math.floor(10_000 * share + 1e-6) / 100:g}"


def median(values: Sequence[float]) -> float | None:
    """Return the median; None without values."""
    return float(np.median(values)) if values else None


def vector(text: str) -> Array:
    """Return the vector that a record keeps as text."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")
