"""Step 4: images with edits applied."""

from unmemorize.generation._edits import Edit, ExportForm, NeuronEdit
from unmemorize.generation._generate import GenerationSettings, generate, generate_each
from unmemorize.generation._generate_all import generate_all
from unmemorize.generation._image_sets import (
    OVERALL,
    ImageFormat,
    ImageRecord,
    ImageSet,
    ImageSetRun,
    image_sets,
    read_images,
)
from unmemorize.generation._neuron_sets import NeuronSet

__all__ = [
    "OVERALL",
    "Edit",
    "ExportForm",
    "GenerationSettings",
    "ImageFormat",
    "ImageRecord",
    "ImageSet",
    "ImageSetRun",
    "NeuronEdit",
    "NeuronSet",
    "generate",
    "generate_all",
    "generate_each",
    "image_sets",
    "read_images",
]
