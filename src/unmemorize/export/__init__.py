"""What was found, in forms that other programs load: checkpoints, LoRA, model cards."""

from unmemorize.export._card import model_card
from unmemorize.export._checkpoint import NEURONS, bake, folder_of
from unmemorize.export._lora import LoraLayout, export_lora, read_lora, verify_lora
from unmemorize.export._single_file import export_single_file
from unmemorize.export._verification import Change, changes

__all__ = [
    "NEURONS",
    "Change",
    "LoraLayout",
    "bake",
    "changes",
    "export_lora",
    "export_single_file",
    "folder_of",
    "model_card",
    "read_lora",
    "verify_lora",
]
