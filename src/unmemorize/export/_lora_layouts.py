"""How LoRA files name their tensors. To add a layout, add an entry to `LAYOUTS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from unmemorize._errors import ExportError
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, name_of_denoiser, weights_of

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""


@dataclass(frozen=True)
class LayerKeys:
    """The names that the tensors of one value layer have in a LoRA.

    Args:
        down: the matrix A, (rank, inputs).
        up: the matrix B, (features, rank).
        bias: the bias of B, (features,). None where the layout has no place for it.
        alpha: the numerator of the factor alpha / rank. None where the metadata hold it, as
            peft writes it.
    """

    down: str
    up: str
    bias: str | None = None
    alpha: str | None = None


@dataclass(frozen=True)
class LoraLayout:
    """One way to name the tensors of a LoRA.

    Args:
        name: as the user asks for it.
        programs: who reads it, for people.
        keys: (name of the denoiser in the pipeline, layer path) -> names of the layer's tensors.
        denoisers: the denoisers whose layers it can name.
        takes_bias: whether it has a place for biases.
        file_name: name of the model -> name of the file.
    """

    name: str
    programs: str
    keys: Callable[[str, str], LayerKeys]
    denoisers: tuple[str, ...]
    takes_bias: bool
    file_name: Callable[[str], str]

    def refuse_misfit(self, model: Model, neurons: NeuronFile) -> None:
        """Refuse a model whose value layers this layout cannot express.

        Raises:
            ExportError: the denoiser is of another kind, or a layer has a bias.
        """
        fits = name_of_denoiser(model.pipe) in self.denoisers
        if not fits or (not self.takes_bias and has_bias(model, neurons)):
            raise ExportError(
                f"{type(model.pipe).__name__}: the {self.name} layout has no place for its value "
                "layers. Use the layout diffusers."
            )


def has_bias(model: Model, neurons: NeuronFile) -> bool:
    """Tell whether a layer of these neurons has a bias."""
    return any("bias" in weights_of(model.value_layers[path]) for path in neurons.neurons.layers)


def layout_named(name: str) -> LoraLayout:
    """Look up a layout.

    Raises:
        ExportError: no layout has this name.

    Examples:
        >>> layout_named("kohya").keys("unet", "mid_block.attn2.to_v").up
        'lora_unet_mid_block_attn2_to_v.lora_up.weight'
    """
    if name not in LAYOUTS:
        raise ExportError(f"layout {name!r}: unknown. Use one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def _diffusers_keys(denoiser: str, path: str) -> LayerKeys:
    prefix = f"{denoiser}.{path}"
    return LayerKeys(
        down=f"{prefix}.lora_A.weight",
        up=f"{prefix}.lora_B.weight",
        bias=f"{prefix}.lora_B.bias",
    )


def _kohya_keys(_denoiser: str, path: str) -> LayerKeys:
    prefix = f"lora_unet_{path.replace('.', '_')}"
    return LayerKeys(
        down=f"{prefix}.lora_down.weight",
        up=f"{prefix}.lora_up.weight",
        alpha=f"{prefix}.alpha",
    )


def _named_after(model: str, layout: str) -> str:
    """Name a file after model and layout, for programs that list LoRAs by their file names."""
    stem = re.sub(r"[^\w.-]+", "-", model.rpartition("/")[2]).strip("-.")
    return f"{stem or 'model'}-unmemorized-{layout}.safetensors"


_ALL = (
    LoraLayout(
        name="diffusers",
        programs="diffusers (load_lora_weights)",
        keys=_diffusers_keys,
        denoisers=("unet", "transformer"),
        takes_bias=True,
        file_name=lambda _model: DIFFUSERS_FILE,
    ),
    LoraLayout(
        name="kohya",
        programs="programs that read LoRAs of kohya's scripts, and diffusers",
        keys=_kohya_keys,
        denoisers=("unet",),
        takes_bias=False,
        file_name=lambda model: _named_after(model, "kohya"),
    ),
)
LAYOUTS: Mapping[str, LoraLayout] = MappingProxyType({layout.name: layout for layout in _ALL})
"""Every layout by its name."""
