"""How long work reports where it stands; drawing it is the caller's business."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with the units done and the units in all (None: nobody knows yet), after each unit."""


def silent(done: int, total: int | None) -> None:
    """Report nothing."""
