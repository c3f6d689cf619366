"""The files that the model of a run was loaded from, by their hashes.

RUN/model-files.json    SHA-256 of each file, by its path in the folder of the model
"""

from __future__ import annotations

import json

from unmemorize._errors import ExportError, RunError
from unmemorize._files import read_json
from unmemorize.pipelines import Model, folder_of, model_files
from unmemorize.runs._run import Run
from unmemorize.runs._stored_images import hash_of_file

MODEL_FILES = "model-files.json"


def record_model_files(run: Run, model: Model) -> None:
    """Write the SHA-256 of the files that a model was loaded from, once for each run.

    A model that was made in memory has none.
    """
    if (run.folder / MODEL_FILES).exists():
        return
    try:
        folder = folder_of(model)
    except ExportError:
        return
    hashes = {name.as_posix(): hash_of_file(folder / name) for name in model_files(folder)}
    run.write(MODEL_FILES, json.dumps(hashes, indent=1) + "\n")


def read_model_files(run: Run) -> dict[str, str]:
    """Read these hashes; empty where none were recorded.

    Raises:
        RunError: the file is damaged.
    """
    path = run.folder / MODEL_FILES
    return read_json(path, RunError, "list of model files") if path.exists() else {}
