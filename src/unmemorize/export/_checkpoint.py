"""A complete diffusers folder in which an edit is made for good."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from unmemorize._errors import ExportError
from unmemorize._files import read_json, whole_folder
from unmemorize._paths import exists
from unmemorize.export._exportable import AnyEdit, exportable
from unmemorize.export._loaded_components import refuse_other_components
from unmemorize.export._model_folder import (
    CARD,
    EDIT,
    NEURONS,
    is_license,
    loadable_index,
    stored_key,
)
from unmemorize.export._rows import Rewrite, read_header, rewrite_rows, same_up_to_rounding
from unmemorize.export._written import WrittenLayer, WrittenWeight, layers_to_write
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import INDEX, Model, folder_of, model_files


def bake(
    pipe: DiffusionPipeline | Model,
    neurons: AnyEdit | None,
    folder: str | Path,
    *,
    card: str | None = None,
) -> Path:
    """Copy the model's folder and edit its weights.

    Of neurons, the rows (weight and bias) are multiplied by the scale. LoRAs in effect become part
    of the copy: each layer that they change gets the weights that it computes with, then edited.

    The copy loads with plain ``from_pretrained``. Its other bytes are those of the base, in the
    precision of the base. What diffusers does not load stays behind, such as pickles and whole
    models in one file. If the folder lacks the files of a safety checker, because the pipeline was
    loaded without it, the index of the copy does not name it. The neuron file or edit file goes
    with the copy. Before that, the folder is compared with the loaded pipeline (class,
    configuration and all weights of its networks, and its scheduler), up to the rounding of the
    loaded type.

    Args:
        pipe: the model, loaded from a folder or from the Hub.
        neurons: a neuron file, an edit file or an edit, or neurons to switch off (also as a
            localization).
        folder: where the copy goes; it must not exist.
        card: the README.md of the copy, see `model_card`. None copies the base's.

    Returns:
        The folder.

    Raises:
        ExportError: there is no edit (None), the folder exists, the model has no files, something
            in memory is not what its files hold (a changed, replaced or missing component, a fused
            LoRA), or a layer cannot be exported.
        NeuronError, EditError: the edit belongs to another model.

    Examples:
        >>> import tempfile
        >>> from unmemorize import Model, NeuronFile, Neurons
        >>> model = Model.load("testbed", device="cpu")
        >>> neurons = NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [4]}))
        >>> from unmemorize.export import verify
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     verify(bake(model, neurons, f"{folder}/edited"), model).passed
        True
    """
    edit = exportable(pipe, neurons)
    model = edit.model
    folder = Path(folder)
    if exists(folder):
        raise ExportError(f"{folder}: exists already. Choose another folder, or delete it first.")
    written = layers_to_write(edit)
    source = folder_of(model)
    refuse_other_components(model, source)
    files = (path.relative_to(source) for path in source.iterdir() if path.is_file())
    licenses = filter(is_license, files)
    with whole_folder(folder, ExportError) as copy:
        for name in (*model_files(source), *licenses):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy / name)
        index = loadable_index(source)
        if index != read_json(source / INDEX, ExportError, "index of a model"):
            (copy / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for component, layers in written.items():
            _change_layers(sorted((copy / component).glob("*.safetensors")), layers)
        edit.file.save(copy / (NEURONS if isinstance(edit.file, NeuronFile) else EDIT))
        if card is not None:
            (copy / CARD).write_text(card, encoding="utf-8")
        elif (source / CARD).is_file():
            shutil.copyfile(source / CARD, copy / CARD)
    return folder


def _change_layers(files: Sequence[Path], layers: Mapping[str, WrittenLayer]) -> None:
    stored = {file: read_header(file).tensors for file in files}
    keys = {key for tensors in stored.values() for key in tensors}
    changed: dict[str, WrittenWeight] = {}
    for path, layer in layers.items():
        for name in layer.base:
            key = stored_key(keys, f"{path}.{name}")
            if key is None:
                raise ExportError(
                    f"{path}.{name}: no safetensors file of the model holds it once. "
                    "Save the model with diffusers first."
                )
            changed[key] = WrittenWeight(layer, name)
    for file, tensors in stored.items():
        there = sorted(tensors.keys() & changed.keys())
        with safe_open(file, framework="pt") as content:
            for key in there:
                loaded = changed[key].layer.base[changed[key].name]
                _refuse_other_weights(f"{file.name}: {key}", content.get_tensor(key), loaded)
        rewrites = [Rewrite(key, 0, tensors[key].shape[0], changed[key].value) for key in there]
        rewrite_rows(file, rewrites)


def _refuse_other_weights(name: str, stored: Tensor, loaded: Tensor) -> None:
    # float16, since fingerprints do not tell a model from its float16 variant
    if not same_up_to_rounding(stored, loaded.detach(), torch.float16):
        raise ExportError(
            f"{name} is not what the loaded model has there. Save it with pipe.save_pretrained, "
            "and load it from there. If that is a file of other weights (such as non_ema), take "
            "it out of the folder."
        )
