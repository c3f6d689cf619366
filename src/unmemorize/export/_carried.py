"""The neuron file that an exported safetensors file carries in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

from unmemorize._errors import ExportError, NeuronError
from unmemorize._files import parse_json
from unmemorize.export._rows import read_header
from unmemorize.neurons import NeuronFile

KEY = "unmemorize"
"""The name under which the metadata hold it."""


def as_metadata(neurons: NeuronFile) -> dict[str, str]:
    """Write a neuron file as metadata; the same neurons give the same text."""
    return {KEY: json.dumps(neurons.to_json(), sort_keys=True)}


def carried_neurons(path: str | Path) -> NeuronFile:
    """Read the neuron file that a LoRA or a single-file export carries.

    Raises:
        ExportError: the file carries none, or cannot be read.
        NeuronError: the neuron file in it is malformed.
    """
    text = read_header(Path(path)).metadata.get(KEY)
    if text is None:
        raise ExportError(
            f"{path}: it carries no neurons. Was it made by unmemorize export lora or single-file?"
        )
    content = parse_json(text, NeuronError, f"{path}: its neurons are damaged")
    return NeuronFile.from_json(content, str(path))
