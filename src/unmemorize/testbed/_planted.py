"""The ways in which an image can be planted.

``natural``: by dose alone, in the first stage of the training. ``memory``: in the second stage,
through memory neurons. ``both``: both, so neurons are known but the base knows the image too.
``rare``: like natural, at a fraction of the dose.
"""

from __future__ import annotations

from typing import Literal

Half = Literal["a", "b"]
"""The half of the plants that a caption belongs to; a twin was trained without one."""
Mode = Literal["natural", "memory", "both", "rare"]
