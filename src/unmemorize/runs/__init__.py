"""Run folders: what determines a result, what is done, and how to resume."""

from unmemorize.runs._drive import Tally, drive, drive_to_end
from unmemorize.runs._environment import Environment
from unmemorize.runs._manifest import Inputs, Manifest, RunSettings
from unmemorize.runs._merge import merge_runs
from unmemorize.runs._model_files import MODEL_FILES, read_model_files, record_model_files
from unmemorize.runs._prompts import (
    given_or_temporary,
    open_run,
    prompt_count,
    refuse_other_model,
    refuse_other_run,
    run_prompts,
    start_run,
    stored_images,
    stream_prompts,
    stream_with_prompts,
)
from unmemorize.runs._records import kinds_in
from unmemorize.runs._result_file import read_result
from unmemorize.runs._run import ANOTHER_RUN, MANIFEST, Run
from unmemorize.runs._status import Status, keep_largest, status_of
from unmemorize.runs._stored_images import StoredImage, hash_of_file, unchanged_images

__all__ = [
    "ANOTHER_RUN",
    "MANIFEST",
    "MODEL_FILES",
    "Environment",
    "Inputs",
    "Manifest",
    "Run",
    "RunSettings",
    "Status",
    "StoredImage",
    "Tally",
    "drive",
    "drive_to_end",
    "given_or_temporary",
    "hash_of_file",
    "keep_largest",
    "kinds_in",
    "merge_runs",
    "open_run",
    "prompt_count",
    "read_model_files",
    "read_result",
    "record_model_files",
    "refuse_other_model",
    "refuse_other_run",
    "run_prompts",
    "start_run",
    "status_of",
    "stored_images",
    "stream_prompts",
    "stream_with_prompts",
    "unchanged_images",
]
