"""A complete diffusers folder in which neurons are switched off for good."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor, nn

from unmemorize._errors import ExportError
from unmemorize._files import read_json, whole_folder
from unmemorize.export._rows import header, scale_rows
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model, name_of_denoiser, text_rows_only, weights_of

NEURONS, CARD, INDEX = "unmemorize_neurons.json", "README.md", "model_index.json"
_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Of what diffusers and transformers load without running code; other formats would hold the weights once more, unchanged."""
_ROUNDING = 0.01
"""Relative; more than any of the types that a model may be loaded in."""


def bake(
    pipe: DiffusionPipeline | Model,
    neurons: NeuronFile,
    folder: str | Path,
    *,
    card: str | None = None,
) -> Path:
    """Copy the model's folder and multiply the rows of the neurons (weights and bias) by the file's scale.

    The copy loads with plain ``from_pretrained``. Its other bytes are those of the base, in the precision of the base; what the model
    does not load, such as weights in other formats than safetensors and whole models in one file, stays behind (`model_files`). The
    neuron file goes with it. Only the layers that are edited are held against the loaded model, up to rounding.

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
    names = [
        *model_files(source),
        *(path.relative_to(source) for path in source.glob("LICENSE*") if path.is_file()),
    ]
    with whole_folder(folder, ExportError) as partial:
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        _switch_off(
            sorted((partial / name_of_denoiser(model.pipe)).glob("*.safetensors")), neurons, model
        )
        neurons.save(partial / NEURONS)
        if card is not None or (source / CARD).is_file():
            (partial / CARD).write_text(
                card if card is not None else (source / CARD).read_text(encoding="utf-8"),
                encoding="utf-8",
            )
    return folder


def model_files(folder: Path) -> list[Path]:
    """The files of a diffusers model, relative to its folder: the index, and those that components may be loaded from.

    Raises:
        ExportError: the index is missing or damaged.
    """
    components = [
        name
        for name, value in read_json(folder / INDEX, ExportError, "index of a model").items()
        if isinstance(value, list)
    ]
    inside = (
        path
        for name in components
        for path in (folder / name).rglob("*")
        if path.suffix in _SUFFIXES and path.is_file()
    )
    return [Path(INDEX), *sorted(path.relative_to(folder) for path in inside)]


def _switch_off(files: Sequence[Path], neurons: NeuronFile, model: Model) -> None:
    layers = neurons.neurons.layers
    here = {
        f"{path}.{name}": value
        for path in layers
        for name, value in weights_of(model.value_layers[path]).items()
    }
    missing = set(layers)
    for file in files:
        keys = header(file)[0].keys() & here.keys()
        with safe_open(file, framework="pt") as tensors:
            for key in sorted(keys):
                _check_same(f"{file.name}: {key}", tensors.get_tensor(key), here[key])
        scale_rows(file, {key: layers[key.rpartition(".")[0]] for key in keys}, neurons.scale)
        missing -= {key.removesuffix(".weight") for key in keys}
    if missing:
        raise ExportError(
            f"{min(missing)}: no safetensors file of the denoiser holds its weights. Save the model with diffusers first."
        )


def alike(there: Tensor, here: Tensor) -> bool:
    """Whether two tensors have the same values but for the types that they may have been rounded to."""
    return there.shape == here.shape and torch.allclose(
        there.float(), here.detach().float().cpu(), rtol=_ROUNDING, atol=_ROUNDING**2
    )


def _check_same(name: str, there: Tensor, here: Tensor) -> None:
    if not alike(there, here):
        raise ExportError(
            f"{name} is not what the loaded model has there. Save it with pipe.save_pretrained, and load it from there; or, if that is a "
            f"file of other weights (such as non_ema), take it out of the folder."
        )


def exportable(pipe: DiffusionPipeline | Model, neurons: NeuronFile) -> Model:
    """The model, after it was seen that the neurons are its own and that weights can switch them off.

    Raises:
        ExportError: a LoRA is loaded, or neurons are in a layer that projects text and image, which weights cannot tell from each other.
        NeuronError: the neurons belong to another model.
    """
    model = Model.of(pipe)
    neurons.check(model)
    networks = (part for part in model.pipe.components.values() if isinstance(part, nn.Module))
    if any(hasattr(module, "base_layer") for network in networks for module in network.modules()):
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
    if (loaded_from / INDEX).is_file():
        return loaded_from  # of just the revision that was loaded, whoever loaded it
    raise ExportError(
        f"{name or type(model.pipe).__name__}: has no files here. Save it with pipe.save_pretrained, and load it from there."
    )
