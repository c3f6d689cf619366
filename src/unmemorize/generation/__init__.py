"""Step 4: images with edits applied."""

from unmemorize.generation._closed_form import ClosedFormEdit, Erased
from unmemorize.generation._combined import CombinedEdit, edit_from_json
from unmemorize.generation._edit_file import EditFile
from unmemorize.generation._edits import Edit, NeuronEdit
from unmemorize.generation._generate import GenerationSettings, generate, generate_each
from unmemorize.generation._generate_all import generate_all
from unmemorize.generation._image_sets import (
    ORIGINAL,
    OVERALL,
    ImageFormat,
    ImageRecord,
    ImageSet,
    ImageSetRun,
    image_sets,
    name_on,
    read_images,
    without_prompts,
)
from unmemorize.generation._layer_changes import LayerChange
from unmemorize.generation._neuron_sets import NeuronSet
from unmemorize.generation._text_inputs import own_tokens, text_inputs, text_projections

__all__ = [
    "ORIGINAL",
    "OVERALL",
    "ClosedFormEdit",
    "CombinedEdit",
    "Edit",
    "EditFile",
    "Erased",
    "GenerationSettings",
    "ImageFormat",
    "ImageRecord",
    "ImageSet",
    "ImageSetRun",
    "LayerChange",
    "NeuronEdit",
    "NeuronSet",
    "edit_from_json",
    "generate",
    "generate_all",
    "generate_each",
    "image_sets",
    "name_on",
    "own_tokens",
    "read_images",
    "text_inputs",
    "text_projections",
    "without_prompts",
]
