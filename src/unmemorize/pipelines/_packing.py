"""Latents as tokens, as Flux and Qwen-Image pass them to their denoisers."""

from __future__ import annotations

import math

from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """Make tokens of patches of 2 x 2: (B, C, H, W) to (B, H W / 4, 4 C)."""
    count, channels, height, width = latents.shape
    patches = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(count, height * width // 4, channels * 4)


def unpack(tokens: Tensor) -> Tensor:
    """Invert `pack` for square latents."""
    count, length, features = tokens.shape
    side = math.isqrt(length)
    patches = tokens.reshape(count, side, side, features // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, features // 4, 2 * side, 2 * side)
