"""A checkpoint in one file, with whatever names its tensors have there, in which neurons are switched off for good."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from unmemorize._denoiser import weights_of
from unmemorize._errors import ExportError
from unmemorize._neurons import NeuronFile
from unmemorize.export._checkpoint import exportable
from unmemorize.export._rows import header, scale_rows


def export_single_file(pipe: DiffusionPipeline, neurons: NeuronFile, base: str | Path, output: str | Path) -> Path:
    """Copy a single-file checkpoint of the model and multiply the rows of the neurons in it by the file's scale.

    The tensors are found by their values, so the file may name them as it likes (the original layout of Stable Diffusion, for instance).

    Args:
        pipe: the model, loaded from a diffusers folder with the same weights.
        neurons: what to switch off.
        base: the single file (safetensors).
        output: where the copy goes.

    Raises:
        ExportError: the file does not hold the layer's weights, or holds them twice; it cannot be read or written.
        NeuronError: the neurons belong to another model.
    """
    model, base, output = exportable(pipe, neurons), Path(base), Path(output)
    if output.exists():
        raise ExportError(f"{output}: exists already. Choose another file, or delete it first.")
    entries, _ = header(base)
    keys = {}
    with safe_open(base, framework="pt") as file:
        for path in neurons.neurons.layers:
            for name, weights in weights_of(model.value_layers[path]).items():
                expected = weights.detach().cpu()
                shaped = [key for key, entry in entries.items() if entry.get("shape") == list(expected.shape)]
                found = [key for key in shaped if torch.equal(file.get_tensor(key).to(expected.dtype), expected)]
                if len(found) != 1:
                    raise ExportError(
                        f"{base}: it holds the {name} of {path} {len(found)} times instead of once. Load the model from a folder with the "
                        f"same weights, in the same precision (--dtype)."
                    )
                keys[found[0]] = neurons.neurons.layers[path]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base, output)
    except OSError as problem:
        raise ExportError(f"{output}: cannot be written ({problem.strerror}). Free space, or choose another place.") from problem
    scale_rows(output, keys, neurons.scale)
    return output
