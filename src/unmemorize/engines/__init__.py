"""Who does the work on many prompts: this process, local workers, or a Ray cluster. Results are the same."""

from unmemorize.engines._engine import Engine, InProcess
from unmemorize.engines._execution import Execution
from unmemorize.engines._ray import RayActors
from unmemorize.engines._units import (
    Failed,
    Finished,
    Shard,
    Task,
    Unit,
    UnitFunction,
    attempt,
    attempt_each,
    in_order,
    units_of,
)
from unmemorize.engines._workers import Workers

__all__ = [
    "Engine",
    "Execution",
    "Failed",
    "Finished",
    "InProcess",
    "RayActors",
    "Shard",
    "Task",
    "Unit",
    "UnitFunction",
    "Workers",
    "attempt",
    "attempt_each",
    "in_order",
    "units_of",
]
