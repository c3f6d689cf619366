from . import testbed
from ._calibration import calibrate_threshold
from ._errors import (
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
from ._generation import GenerationSettings, generate
from ._loading import load_pipeline
from ._model import Model
from ._neurons import NeuronFile, Neurons, random_control
from ._prompts import Prompt, iter_prompts, read_prompts
from ._similarity import NoiseSettings
from ._statistics import Statistics, compute_statistics
from ._switch import apply, remove, switched_off
from ._threshold import Threshold
from ._value_layers import name_value_layers
from .export import bake, export_lora, export_single_file
from .localization import Detection, Localization, LocalizationSettings, detect, localize
from .metrics import BundledDescriptor, ClipAlignment, FileDescriptor
from .report import write_report
from .runs import Run

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
