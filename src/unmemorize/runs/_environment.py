"""What a run is computed with. It is on record and determines no result but for rounding."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from unmemorize._errors import ModelError
from unmemorize.pipelines import Model, sampler


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run was started with.

    Its schedule of noise is part of the fingerprint. A run that resumes elsewhere, or in shards,
    keeps the environment of the process that started it.

    Args:
        scheduler: the class of the sampler, see `unmemorize.pipelines.sampler`; empty where it is
            not known.
        scheduler_config: its configuration.
        device: of the model, with the name of a GPU.
        threads: of torch on the CPU; 0 where they are not known.
    """

    scheduler: str = ""
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    threads: int = 0

    @classmethod
    def of(cls, model: Model) -> Environment:
        """Describe the sampler of a model, its device, and the threads of this process."""
        device = str(model.device)
        if model.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(model.device)})"
        scheduler: Any = None
        with suppress(ModelError):  # steps that draw nothing do without one
            scheduler = sampler(model.pipe)
        config = {} if scheduler is None else dict(scheduler.config)
        public = {name: value for name, value in config.items() if not name.startswith("_")}
        return cls(
            scheduler="" if scheduler is None else type(scheduler).__name__,
            scheduler_config=json.loads(json.dumps(public, default=str)),
            device=device,
            threads=torch.get_num_threads(),
        )


UNKNOWN = Environment()
"""That of runs whose maker does not say, such as published results."""
