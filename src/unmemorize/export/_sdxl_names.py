"""The names of layers in the original U-Net of Stable Diffusion XL, by which programs know LoRAs.

Blocks are counted through all sides of the U-Net: each residual network with its attention is a
block, the way down begins with a convolution, and each resolution but the last of the way down ends
with a block that resamples. On the way up, the layer that resamples is the last of its block.
"""

from __future__ import annotations

import re

from diffusers import UNet2DConditionModel

_SIDE = re.compile(r"(down|up)_blocks\.(\d+)\.([a-z]+)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.([a-z]+)\.(\d+)\.(.+)")
_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_OF_RESIDUAL = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_name(unet: UNet2DConditionModel, path: str) -> str | None:
    """Return the original path of a linear layer or convolution; None for other layers.

    A U-Net with another depth in each block has no original to name it after.

    Args:
        unet: the U-Net.
        path: of the layer in diffusers.
    """
    if not isinstance(unet.config.layers_per_block, int):
        return None
    if middle := _MIDDLE.fullmatch(path):
        kind, number, inner = middle.groups()
        return _inside("middle_block", 1 if kind == "attentions" else 2 * int(number), kind, inner)
    side = _SIDE.fullmatch(path)
    if side is None:
        return _SINGLE.get(path)
    way, level, kind, number, inner = side.groups()
    blocks = getattr(unet, f"{way}_blocks")
    first = sum(len(block.resnets) + (way == "down") for block in blocks[: int(level)])
    residuals = len(blocks[int(level)].resnets)
    if kind == "downsamplers":
        return f"input_blocks.{first + residuals + 1}.0.op"
    if kind == "upsamplers":
        place = 2 if hasattr(blocks[int(level)], "attentions") else 1
        return f"output_blocks.{first + residuals - 1}.{place}.conv"
    block = first + int(number)
    name = f"input_blocks.{block + 1}" if way == "down" else f"output_blocks.{block}"
    return _inside(name, 1 if kind == "attentions" else 0, kind, inner)


def _inside(block: str, place: int, kind: str, inner: str) -> str | None:
    name = inner if kind == "attentions" else _OF_RESIDUAL.get(inner)
    return None if name is None else f"{block}.{place}.{name}"
