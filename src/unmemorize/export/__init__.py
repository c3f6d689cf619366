"""What was found, in forms that other programs load: checkpoints, LoRA, model cards."""

from unmemorize.export._card import write_card
from unmemorize.export._checkpoint import CARD, NEURONS, Change, bake, changes, folder_of
from unmemorize.export._lora import LoraLayout, export_lora, read_lora
from unmemorize.export._single_file import export_single_file

__all__ = [
    "CARD",
    "NEURONS",
    "Change",
    "LoraLayout",
    "bake",
    "changes",
    "export_lora",
    "export_single_file",
    "folder_of",
    "read_lora",
    "write_card",
]
