"""A complete diffusers folder in which neurons are switched off for good."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from unmemorize._denoiser import name_of_denoiser, weights_of
from unmemorize._errors import ExportError
from unmemorize._files import whole_folder
from unmemorize._model import Model
from unmemorize._neurons import NeuronFile
from unmemorize._value_layers import text_rows_only
from unmemorize.export._rows import header, scale_rows

NEURONS, CARD = "unmemorize_neurons.json", "README.md"
_CODE = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", "*.msgpack", "*.h5", "*.onnx", "*.onnx_data", "*.py", ".git*", ".cache")
"""Formats that can run code, or that hold the weights once more, unchanged."""
_ROUNDING = 0.01
"""Relative; more than any of the types that a model may be loaded in."""


def bake(pipe: DiffusionPipeline, neurons: NeuronFile, folder: str | Path, *, card: str | None = None) -> Path:
    """Copy the model's folder and multiply the rows of the neurons (weights and bias) by the file's scale.

    The copy loads with plain ``from_pretrained``. Its other bytes are those of the base, in the precision of the base; weights in other
    formats than safetensors, and whole models in one file, are left out. The neuron file goes with it.

    Args:
        pipe: the model, loaded from a folder or from the Hub.
        neurons: what to switch off.
        folder: where the copy goes; it must not exist.
        card: its README.md, see `model_card`; by default the base's.

    Raises:
        ExportError: the folder exists, the model has no files or its files are those of another one, or a layer cannot be exported.
        NeuronError: the neurons belong to another model.
    """
    model, folder = exportable(pipe, neurons), Path(folder)
    if folder.exists():
        raise ExportError(f"{folder}: exists already. Choose another folder, or delete it first.")
    source = folder_of(model)
    with whole_folder(folder, ExportError) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=lambda inside, names: left_out(source, Path(inside), names))
        _switch_off(sorted((partial / name_of_denoiser(pipe)).glob("*.safetensors")), neurons, model)
        neurons.save(partial / NEURONS)
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")
    return folder


def left_out(source: Path, inside: Path, names: Sequence[str]) -> set[str]:
    """Which files in a folder of a model are not copied: those that can run code, and single files, which hold the neurons once more."""
    patterns = (*_CODE, "*.safetensors") if inside == source else _CODE
    return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}


def _switch_off(files: Sequence[Path], neurons: NeuronFile, model: Model) -> None:
    layers = neurons.neurons.layers
    here = {f"{path}.{name}": value for path in layers for name, value in weights_of(model.value_layers[path]).items()}
    missing = set(layers)
    for file in files:
        keys = header(file)[0].keys() & here.keys()
        with safe_open(file, framework="pt") as tensors:
            for key in sorted(keys):
                _check_same(f"{file.name}: {key}", tensors.get_tensor(key).float(), here[key].detach().float().cpu())
        scale_rows(file, {key: layers[key.rpartition(".")[0]] for key in keys}, neurons.scale)
        missing -= {key.removesuffix(".weight") for key in keys}
    if missing:
        raise ExportError(f"{min(missing)}: no safetensors file of the denoiser holds its weights. Save the model with diffusers first.")


def _check_same(name: str, there: Tensor, here: Tensor) -> None:
    if there.shape != here.shape or not torch.allclose(there, here, rtol=_ROUNDING, atol=_ROUNDING**2):
        raise ExportError(f"{name} is not what the loaded model has there. Save it with pipe.save_pretrained, and load it from there.")


def exportable(pipe: DiffusionPipeline, neurons: NeuronFile) -> Model:
    """The model, after it was seen that the neurons are its own and that weights can switch them off.

    Raises:
        ExportError: a LoRA is loaded, or neurons are in a layer that projects text and image, which weights cannot tell from each other.
        NeuronError: the neurons belong to another model.
    """
    model = Model(pipe)
    neurons.check(model)
    if any(hasattr(module, "base_layer") for module in model.denoiser.modules()):
        raise ExportError(
            f"{model.name}: a LoRA is loaded. Unload it (pipe.unload_lora_weights), or make it part of the model: pipe.fuse_lora, "
            f"pipe.unload_lora_weights, pipe.save_pretrained, and localize in what is loaded from there."
        )
    for path in neurons.neurons.layers:
        if text_rows_only(path):
            raise ExportError(
                f"{path}: it projects text and image together, so that no weights can switch its neurons off for the text alone. "
                f'Use the neuron file with switched_off, or localize with --layers "transformer_blocks.*".'
            )
    return model


def folder_of(model: Model) -> Path:
    """The folder that a model was loaded from, that in the cache of the Hub included.

    Raises:
        ExportError: there is none.
    """
    name = str(model.pipe.config.get("_name_or_path") or "")
    if name and Path(name).is_dir():
        return Path(name)
    loaded_from = Path(str(getattr(model.denoiser, "config", {}).get("_name_or_path") or "")).parent
    if (loaded_from / "model_index.json").is_file():
        return loaded_from  # of just the revision that was loaded, whoever loaded it
    raise ExportError(f"{name or type(model.pipe).__name__}: has no files here. Save it with pipe.save_pretrained, and load it from there.")
