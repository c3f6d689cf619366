from . import testbed
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
from ._prompts import Prompt, iter_prompts, read_prompts
from .detection import Detection, NoiseSettings, Threshold, calibrate_threshold, detect
from .export import bake, export_lora, export_single_file
from .generation import GenerationSettings, generate
from .localization import Localization, LocalizationSettings, localize
from .metrics import BundledDescriptor, ClipAlignment, FileDescriptor
from .neurons import NeuronFile, Neurons, random_control, switch_off, switch_on, switched_off
from .pipelines import Model, load_pipeline
from .report import write_report
from .runs import Run
from .statistics import Statistics, compute_statistics

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
    "random_control",
    "read_prompts",
    "switch_off",
    "switch_on",
    "switched_off",
    "testbed",
    "write_report",
]
