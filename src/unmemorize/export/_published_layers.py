"""The value layers that the published files of Finding NeMo list.

They hold one list per value layer, in the order in which the denoiser runs the layers.
"""

from __future__ import annotations

from unmemorize.pipelines import Model, select_value_layers

WIDTHS = {
    **{
        f"down_blocks.{stage}.attentions.{number}.transformer_blocks.0.attn2.to_v": width
        for stage, width in enumerate((320, 640, 1280))
        for number in (0, 1)
    },
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v": 1280,
}
"""The searched value layers of Stable Diffusion v1, and how many neurons each has."""

LARGEST_FILE = 64 * 1024**2
"""Bytes; the published files are far smaller."""


def published_widths(model: Model | None) -> dict[str, int]:
    """Name the layers that the lists of a published file stand for, with their widths.

    Args:
        model: the model of the file. None takes Stable Diffusion v1.
    """
    if model is None:
        return WIDTHS
    return {layer: model.widths[layer] for layer in select_value_layers(model.value_layers)}
