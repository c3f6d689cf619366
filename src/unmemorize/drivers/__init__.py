"""Who does the work on many prompts: this process, others beside it, or a Ray cluster; the results are the same."""

from unmemorize.drivers._crew import Crew, work_through
from unmemorize.drivers._engine import Engine, InProcess
from unmemorize.drivers._ray import RayActors
from unmemorize.drivers._task import Failed, Finished, Outcome, Shard, Task, Unit, Work, attempt, in_order, units_of
from unmemorize.drivers._workers import Workers

__all__ = [
    "Crew",
    "Engine",
    "Failed",
    "Finished",
    "InProcess",
    "Outcome",
    "RayActors",
    "Shard",
    "Task",
    "Unit",
    "Work",
    "Workers",
    "attempt",
    "in_order",
    "units_of",
    "work_through",
]
