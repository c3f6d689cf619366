"""Words, numbers and tables of the page on full-size models on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
"""A part of the readings, as JSON holds it."""


def of_prefix(parts: Report, prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): one for name, one in parts.items() if name.startswith(prefix)
    }


def plain(kind: str) -> str:
    return kind.replace(", contiguous_format", "").replace("channels_last", "channels last")


def in_seconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def number(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.1f}"


def table(rows: list[list[str]]) -> str:
    head, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])
