"""Edits in forms that other programs load, and the check of these forms."""

from unmemorize.export._all_forms import CHECKPOINT, Exported, export_all
from unmemorize.export._card import model_card
from unmemorize.export._carried import AnyEditFile, describe, edit_of, load_edit_file
from unmemorize.export._changes import Difference
from unmemorize.export._checkpoint import bake
from unmemorize.export._lora import export_lora
from unmemorize.export._lora_layouts import LAYOUT_NAMES, LAYOUTS, LoraLayout, layout_table
from unmemorize.export._model_folder import EDIT
from unmemorize.export._parquet import arrow_table, export_parquet
from unmemorize.export._published_results import export_results, import_results
from unmemorize.export._published_statistics import read_statistics
from unmemorize.export._record_rows import RecordRows, record_rows
from unmemorize.export._single_file import check_single_file, export_single_file
from unmemorize.export._verification import Verification, verify

__all__ = [
    "CHECKPOINT",
    "EDIT",
    "LAYOUTS",
    "LAYOUT_NAMES",
    "AnyEditFile",
    "Difference",
    "Exported",
    "LoraLayout",
    "RecordRows",
    "Verification",
    "arrow_table",
    "bake",
    "check_single_file",
    "describe",
    "edit_of",
    "export_all",
    "export_lora",
    "export_parquet",
    "export_results",
    "export_single_file",
    "import_results",
    "layout_table",
    "load_edit_file",
    "model_card",
    "read_statistics",
    "record_rows",
    "verify",
]
