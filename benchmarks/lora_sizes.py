"""How large an edit of trained weights of Stable Diffusion is: whole, and as factors of a LoRA.

python benchmarks/lora_sizes.py

The shapes are those of the published configurations. A LoRA of rank r has r (features + inputs)
float32 numbers for each weight that is larger than that. The inputs of a convolution are those of
one output. Nothing is trained, and no weights are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from full_size import meta_unet_of_stable_diffusion_1, meta_unet_of_stable_diffusion_xl

RANKS = (4, 8, 16, 32)
_BYTES = 4


def size(weights: Sequence[Tensor], rank: int) -> int:
    """Return the bytes of the factors of all weights that are larger than these."""
    factors = [rank * (len(weight) + weight[0].numel()) for weight in weights]
    smaller = zip(factors, weights, strict=True)
    return _BYTES * sum(factor for factor, weight in smaller if factor < weight.numel())


def row(name: str, unet: nn.Module, part: str) -> str:
    """Describe the layers of a U-Net whose paths hold a text."""
    parameters = [value for path, value in unet.named_parameters() if part in path]
    whole = _BYTES * sum(value.numel() for value in parameters)
    matrices = [value for value in parameters if value.ndim > 1]
    sizes = [f"{size(matrices, rank) / 1e6:,.0f} MB" for rank in RANKS]
    return f"| {name} | {whole / 1e6:,.0f} MB | {' | '.join(sizes)} |"


def main() -> None:
    """Print a table in Markdown."""
    print(f"| what is trained | whole | {' | '.join(f'rank {rank}' for rank in RANKS)} |")
    print("|---|" + "---|" * (len(RANKS) + 1))
    for name, make in (
        ("Stable Diffusion 1.4", meta_unet_of_stable_diffusion_1),
        ("Stable Diffusion XL", meta_unet_of_stable_diffusion_xl),
    ):
        unet = make()
        print(row(f"{name}, all layers", unet, ""))
        print(row(f"{name}, cross-attention", unet, ".attn2."))


if __name__ == "__main__":
    main()
