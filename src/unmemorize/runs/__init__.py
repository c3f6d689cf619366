"""Run folders: what determines a result, what is done, and how to resume."""

from unmemorize.runs._drive import Tally, drive
from unmemorize.runs._merge import merge_runs
from unmemorize.runs._prompts import (
    given_or_temporary,
    open_run,
    prompt_count,
    run_prompts,
    start_run,
    stream_prompts,
)
from unmemorize.runs._run import Inputs, Manifest, Run, RunSettings
from unmemorize.runs._status import status_of

__all__ = [
    "Inputs",
    "Manifest",
    "Run",
    "RunSettings",
    "Tally",
    "drive",
    "given_or_temporary",
    "merge_runs",
    "open_run",
    "prompt_count",
    "run_prompts",
    "start_run",
    "status_of",
    "stream_prompts",
]
