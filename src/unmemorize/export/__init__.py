"""What was found, in forms that other programs load."""

from unmemorize.export._card import model_card
from unmemorize.export._checkpoint import NEURONS, bake, folder_of
from unmemorize.export._lora import LoraLayout, export_lora, verify_lora
from unmemorize.export._parquet import export_parquet
from unmemorize.export._published import export_results, import_results, read_statistics
from unmemorize.export._single_file import export_single_file
from unmemorize.export._verification import changes

__all__ = [
    "NEURONS",
    "LoraLayout",
    "bake",
    "changes",
    "export_lora",
    "export_parquet",
    "export_results",
    "export_single_file",
    "folder_of",
    "import_results",
    "model_card",
    "read_statistics",
    "verify_lora",
]
