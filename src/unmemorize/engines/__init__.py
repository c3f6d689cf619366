"""Who works on many prompts: this process, local workers or a Ray cluster, with equal results."""

from unmemorize.engines._engine import Engine, InProcess
from unmemorize.engines._execution import Execution
from unmemorize.engines._progress import Progress, silent
from unmemorize.engines._ray import RayActors
from unmemorize.engines._units import (
    Failed,
    Finished,
    Outcome,
    Shard,
    Task,
    Unit,
    UnitFunction,
    attempt_each,
    units_of,
)
from unmemorize.engines._workers import Workers

__all__ = [
    "Engine",
    "Execution",
    "Failed",
    "Finished",
    "InProcess",
    "Outcome",
    "Progress",
    "RayActors",
    "Shard",
    "Task",
    "Unit",
    "UnitFunction",
    "Workers",
    "attempt_each",
    "silent",
    "units_of",
]
