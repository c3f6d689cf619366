"""Step 4: images with neurons off."""

from unmemorize.generation._generate import GenerationSettings, generate, generate_each
from unmemorize.generation._image_sets import (
    OVERALL,
    ImageFormat,
    ImageSet,
    ImageSetRun,
    generate_all,
    image_sets,
)
from unmemorize.generation._neuron_sets import NeuronSet

__all__ = [
    "OVERALL",
    "GenerationSettings",
    "ImageFormat",
    "ImageSet",
    "ImageSetRun",
    "NeuronSet",
    "generate",
    "generate_all",
    "generate_each",
    "image_sets",
]
