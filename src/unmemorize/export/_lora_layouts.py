"""How LoRA files name their tensors. To add a layout, add an entry to `LAYOUTS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unmemorize._errors import ExportError
from unmemorize.export._exportable import Exportable
from unmemorize.export._lora_metadata import (
    LoraContent,
    adapter_metadata,
    flux_metadata,
    is_flux,
    is_sd,
    is_sd3,
    is_sdxl,
    sd3_metadata,
    sd_metadata,
    sdxl_metadata,
)
from unmemorize.export._sdxl_names import original_name
from unmemorize.pipelines import Model, by_component, name_of_denoiser, split_path

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""
_TEXT_ENCODERS = {"text_encoder": "te1", "text_encoder_2": "te2"}
"""Text encoders as SDXL's LoRAs name them. Where there is one, it is "te"."""
_WRAPPER = "text_model."
_JOINT = re.compile(r"transformer_blocks\.(\d+)\.attn\.add_v_proj")


@dataclass(frozen=True)
class LayerKeys:
    """The names that the tensors of one layer have in a LoRA.

    Args:
        down: the matrix A, (rank, inputs).
        up: the matrix B, (projections * features, rank).
        bias: what is added to the bias, (projections * features,). None where the layout has no
            place for it.
        alpha: the numerator of the factor alpha / rank. None where the metadata hold it, as
            peft writes it. Where it is a tensor, it is no factor of the bias.
        projections: how many projections of this size the program keeps in one layer. The values
            are the last one.
    """

    down: str
    up: str
    bias: str | None = None
    alpha: str | None = None
    projections: int = 1

    @property
    def tensors(self) -> set[str]:
        """The names of all tensors that may be there."""
        names = (self.down, self.up, self.bias, self.alpha)
        return {name for name in names if name is not None}


@dataclass(frozen=True)
class LoraLayout:
    """One way to name the tensors of a LoRA.

    Args:
        name: as the user asks for it. Layouts for other models may have the same name.
        models: what it is for, for people.
        programs: who reads it, for people.
        is_for: whether files for a model are written in it.
        keys: (model, path of a layer) -> names of the layer's tensors, or None where the
            layout cannot name it. It may name layers of more models than it is written for.
        metadata: what the file says about itself.
        file_name: name of the model -> name of the file.
    """

    name: str
    models: str
    programs: str
    is_for: Callable[[Model], bool]
    keys: Callable[[Model, str], LayerKeys | None]
    metadata: Callable[[LoraContent], Mapping[str, str]]
    file_name: Callable[[str], str]

    def fits(self, edit: Exportable) -> bool:
        """Tell whether it has a place for all layers of an edit, and for biases that change."""
        return self.is_for(edit.model) and all(
            (keys := self.keys(edit.model, path)) is not None
            and (keys.bias is not None or not edit.changes_bias(path))
            for path in edit.changes
        )


def fitting_layouts(edit: Exportable, name: str | None) -> list[LoraLayout]:
    """Choose the layouts to write: all that fit, or the one of the given name.

    Raises:
        ExportError: no layout has this name, or none of this name fits.
    """
    kind = type(edit.model.pipe).__name__
    if name is not None and name not in LAYOUT_NAMES:
        raise ExportError(f"layout {name!r}: unknown. Use one of {', '.join(LAYOUT_NAMES)}.")
    chosen = [layout for layout in LAYOUTS if name in (None, layout.name) and layout.fits(edit)]
    if not chosen and name in (None, "diffusers"):
        components = " and ".join(by_component(edit.model.pipe, edit.changes))
        raise ExportError(
            f"{kind}: the edit changes its {components}, and diffusers loads LoRAs into "
            f"{' and '.join(_loadable(edit.model))} alone. Export a checkpoint instead."
        )
    if not chosen:
        raise ExportError(
            f"{kind}: the {name} layout has no place for the edited layers. Use the layout "
            "diffusers."
        )
    return chosen


def layout_table() -> str:
    """Describe all layouts as a table of Markdown: which is for which models and programs."""
    rows = [f"| {layout.name} | {layout.models} | {layout.programs} |" for layout in LAYOUTS]
    return "\n".join(["| layout | models | programs |", "|---|---|---|", *rows])


def _loadable(model: Model) -> tuple[str, ...]:
    """Return the components into which diffusers loads LoRAs; it passes over all others."""
    return tuple(getattr(model.pipe, "_lora_loadable_modules", (name_of_denoiser(model.pipe),)))


def _diffusers_keys(model: Model, path: str) -> LayerKeys | None:
    component, inner = split_path(model.pipe, path)
    if component not in _loadable(model):
        return None
    prefix = f"{component}.{inner}"
    return LayerKeys(
        down=f"{prefix}.lora_A.weight",
        up=f"{prefix}.lora_B.weight",
        bias=f"{prefix}.lora_B.bias",
    )


def _kohya_keys(prefix: str, projections: int = 1) -> LayerKeys:
    return LayerKeys(
        down=f"{prefix}.lora_down.weight",
        up=f"{prefix}.lora_up.weight",
        bias=f"{prefix}.diff_b" if projections > 1 else None,
        alpha=f"{prefix}.alpha",
        projections=projections,
    )


def _sd_keys(model: Model, path: str) -> LayerKeys | None:
    component, inner = split_path(model.pipe, path)
    if component == "text_encoder":
        return _text_keys("te", inner)
    return _kohya_keys(f"lora_unet_{path.replace('.', '_')}") if component == "unet" else None


def _sdxl_keys(model: Model, path: str) -> LayerKeys | None:
    if not is_sdxl(model):
        return None
    component, inner = split_path(model.pipe, path)
    if component in _TEXT_ENCODERS:
        return _text_keys(_TEXT_ENCODERS[component], inner)
    name = original_name(model.denoiser, path)
    return None if name is None else _kohya_keys(f"lora_unet_{name.replace('.', '_')}")


def _text_keys(encoder: str, inner: str) -> LayerKeys:
    """Name a layer of a text encoder as older releases of transformers do, which had a wrapper."""
    whole = f"{_WRAPPER}{inner.removeprefix(_WRAPPER)}"
    return _kohya_keys(f"lora_{encoder}_{whole.replace('.', '_')}")


def _flux_keys(model: Model, path: str) -> LayerKeys | None:
    joint = _JOINT.fullmatch(path)
    if joint is None or not is_flux(model):
        return None
    return _kohya_keys(f"lora_unet_double_blocks_{joint[1]}_txt_attn_qkv", 3)


def _sd3_keys(model: Model, path: str) -> LayerKeys | None:
    joint = _JOINT.fullmatch(path)
    if joint is None or not is_sd3(model):
        return None
    return _kohya_keys(f"lora_unet_joint_blocks_{joint[1]}_context_block_attn_qkv", 3)


def _named_kohya(model: str) -> str:
    """Name a file after model and layout, for programs that list LoRAs by their file names."""
    stem = re.sub(r"[^\w.-]+", "-", model.rpartition("/")[2]).strip("-.")
    return f"{stem or 'model'}-unmemorized-kohya.safetensors"


LAYOUTS = (
    LoraLayout(
        name="diffusers",
        models="all that diffusers loads a LoRA into",
        programs="diffusers (load_lora_weights)",
        is_for=lambda _model: True,
        keys=_diffusers_keys,
        metadata=adapter_metadata,
        file_name=lambda _model: DIFFUSERS_FILE,
    ),
    LoraLayout(
        name="kohya",
        models="Stable Diffusion XL",
        programs="ComfyUI, A1111, Forge, InvokeAI, kohya's scripts",
        is_for=is_sdxl,
        keys=_sdxl_keys,
        metadata=sdxl_metadata,
        file_name=_named_kohya,
    ),
    LoraLayout(
        name="kohya",
        models="Stable Diffusion 1, 2",
        programs="ComfyUI, A1111, Forge, InvokeAI, kohya's scripts",
        is_for=is_sd,
        keys=_sd_keys,
        metadata=sd_metadata,
        file_name=_named_kohya,
    ),
    LoraLayout(
        name="kohya",
        models="Stable Diffusion 3, 3.5",
        programs="ComfyUI, Forge",
        is_for=is_sd3,
        keys=_sd3_keys,
        metadata=sd3_metadata,
        file_name=_named_kohya,
    ),
    LoraLayout(
        name="kohya",
        models="Flux",
        programs="ComfyUI, Forge",
        is_for=is_flux,
        keys=_flux_keys,
        metadata=flux_metadata,
        file_name=_named_kohya,
    ),
)
"""Every layout. A model is written in those that fit, of which no two have the same name."""
LAYOUT_NAMES = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))
"""What a user may ask for."""
