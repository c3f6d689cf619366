"""Find the neurons with which a text-to-image diffusion model memorizes training images, and switch them off.

>>> import unmemorize as um
>>> neurons = um.Neurons({"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": [4]})
>>> len(neurons)
1
"""

from unmemorize import testbed
from unmemorize._calibration import calibrate_threshold
from unmemorize._errors import (
    ExportError,
    FetchError,
    MetricError,
    ModelError,
    NeuronError,
    PromptError,
    RunError,
    StatisticsError,
    TestbedError,
    ThresholdError,
    UnmemorizeError,
)
from unmemorize._generation import GenerationSettings, generate
from unmemorize._loading import load_pipeline
from unmemorize._model import Model
from unmemorize._neurons import NeuronFile, Neurons, random_control
from unmemorize._prompts import Prompt, iter_prompts, read_prompts
from unmemorize._similarity import NoiseSettings
from unmemorize._statistics import Statistics, compute_statistics
from unmemorize._switch import apply, remove, switched_off
from unmemorize._threshold import Threshold
from unmemorize._value_layers import name_value_layers
from unmemorize.export import bake, export_lora, export_single_file
from unmemorize.localization import Detection, Localization, LocalizationSettings, detect, localize
from unmemorize.metrics import BundledDescriptor, ClipAlignment, FileDescriptor
from unmemorize.report import write_report
from unmemorize.runs import Run

__all__ = [
    "BundledDescriptor",
    "ClipAlignment",
    "Detection",
    "ExportError",
    "FetchError",
    "FileDescriptor",
    "GenerationSettings",
    "Localization",
    "LocalizationSettings",
    "MetricError",
    "Model",
    "ModelError",
    "NeuronError",
    "NeuronFile",
    "Neurons",
    "NoiseSettings",
    "Prompt",
    "PromptError",
    "Run",
    "RunError",
    "Statistics",
    "StatisticsError",
    "TestbedError",
    "Threshold",
    "ThresholdError",
    "UnmemorizeError",
    "apply",
    "bake",
    "calibrate_threshold",
    "compute_statistics",
    "detect",
    "export_lora",
    "export_single_file",
    "generate",
    "iter_prompts",
    "load_pipeline",
    "localize",
    "name_value_layers",
    "random_control",
    "read_prompts",
    "remove",
    "switched_off",
    "testbed",
    "write_report",
]
