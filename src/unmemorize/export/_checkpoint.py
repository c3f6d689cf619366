"""A complete diffusers folder in which neurons are switched off for good, and a check of what was changed in one."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors import safe_open

from unmemorize._denoiser import name_of_denoiser
from unmemorize._errors import ExportError
from unmemorize._model import Model
from unmemorize._neurons import NeuronFile, Neurons
from unmemorize._value_layers import text_rows_only
from unmemorize.export._rows import changed_rows, header, scale_rows

NEURONS, CARD = "unmemorize_neurons.json", "README.md"
_CODE = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", "*.msgpack", "*.h5", "*.onnx", "*.onnx_data", "*.py", ".git*", ".cache")
"""Not copied: formats that can run code, or that hold the weights once more, unchanged."""


def bake(pipe: DiffusionPipeline, neurons: NeuronFile, folder: str | Path) -> Path:
    """Copy the model's folder and multiply the rows of the neurons (weights and bias) by the file's scale.

    The copy loads with plain ``from_pretrained``. Its other bytes are those of the base, in the precision of the base; weights in other
    formats than safetensors are left out. The neuron file goes with it.

    Args:
        pipe: the model, loaded from a folder or from the Hub.
        neurons: what to switch off.
        folder: where the copy goes; it must not exist.

    Raises:
        ExportError: the folder exists, the model has no files, or a layer projects text and image together.
        NeuronError: the neurons belong to another model.
    """
    model, folder = exportable(pipe, neurons), Path(folder)
    if folder.exists():
        raise ExportError(f"{folder}: exists already. Choose another folder, or delete it first.")
    source = folder_of(model)
    try:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*_CODE))
        files = sorted((folder / name_of_denoiser(pipe)).glob("*.safetensors"))
        _switch_off(files, neurons)
    except OSError as problem:
        raise ExportError(f"{folder}: cannot be written ({problem}). Free space, or choose another folder.") from problem
    neurons.save(folder / NEURONS)
    return folder


def _switch_off(files: Sequence[Path], neurons: NeuronFile) -> None:
    layers = neurons.neurons.layers
    missing = list(layers)
    for file in files:
        entries, _ = header(file)
        missing = [path for path in missing if f"{path}.weight" not in entries]
        keys = {f"{path}.{name}": indices for path, indices in layers.items() for name in ("weight", "bias")}
        scale_rows(file, {key: indices for key, indices in keys.items() if key in entries}, neurons.scale)
    if missing:
        raise ExportError(f"{missing[0]}: no safetensors file of the denoiser holds its weights. Save the model with diffusers first.")


def exportable(pipe: DiffusionPipeline, neurons: NeuronFile) -> Model:
    """The model, after it was seen that the neurons are its own and that weights can switch them off.

    Raises:
        ExportError: neurons are in a layer that projects text and image, which weights cannot tell from each other.
        NeuronError: the neurons belong to another model.
    """
    model = Model(pipe)
    neurons.check(model)
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
    loaded = {"revision": model.revision, "variant": model.variant}
    try:
        return Path(DiffusionPipeline.download(name, local_files_only=True, use_safetensors=True, **loaded))
    except (OSError, ValueError) as problem:
        raise ExportError(
            f"{name or type(model.pipe).__name__}: has no files here. Save it with pipe.save_pretrained, and load it from there."
        ) from problem


@dataclass(frozen=True)
class Change:
    """What differs between two checkpoints in one place.

    Args:
        file: relative to the folders.
        key: of the tensor; empty where the whole file differs.
        rows: in which it differs; empty where it is missing or of another shape.
        neurons: these rows as neurons of a value layer; nothing where it is none.
    """

    file: str
    key: str
    rows: tuple[int, ...]
    neurons: Neurons


def changes(baked: str | Path, base: str | Path, model: Model) -> Iterator[Change]:
    """All differences between an edited folder and its base, the edited one's neuron file and model card apart.

    Args:
        baked: the edited folder.
        base: the folder it was made from.
        model: the base, loaded.

    Raises:
        ExportError: a folder is missing or a file is damaged.
    """
    baked, base = Path(baked), Path(base)
    for folder in (baked, base):
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such folder. Give two folders of diffusers models.")
    ignored = {path for pattern in _CODE for path in base.rglob(pattern)}
    names = {path.relative_to(base) for path in base.rglob("*") if path.is_file() and not ignored & {path, *path.parents}}
    names |= {path.relative_to(baked) for path in baked.rglob("*") if path.is_file()}
    for name in sorted(names - {Path(NEURONS), Path(CARD)}):
        if not (base / name).is_file() or not (baked / name).is_file():
            yield Change(str(name), "", (), Neurons())
        elif filecmp.cmp(base / name, baked / name, shallow=False):
            continue
        elif name.suffix == ".safetensors":
            yield from _tensor_changes(baked / name, base / name, str(name), model)
        else:
            yield Change(str(name), "", (), Neurons())


def _tensor_changes(baked: Path, base: Path, name: str, model: Model) -> Iterator[Change]:
    first, second = header(base)[0], header(baked)[0]
    with safe_open(base, framework="pt") as old, safe_open(baked, framework="pt") as new:
        for key in sorted((first.keys() | second.keys()) - {"__metadata__"}):
            if key not in first or key not in second or first[key]["shape"] != second[key]["shape"]:
                yield Change(name, key, (), Neurons())
            elif rows := changed_rows(old.get_tensor(key), new.get_tensor(key)):
                layer = key.rpartition(".")[0]
                known = name.startswith(f"{name_of_denoiser(model.pipe)}/") and layer in model.value_layers
                yield Change(name, key, tuple(rows), Neurons({layer: rows}) if known else Neurons())
