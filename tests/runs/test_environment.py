"""What a run was started with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from architectures import make
from tasks import AnyRun
from unmemorize import Model, Prompt, Run
from unmemorize.runs import open_run


@pytest.mark.parametrize(
    ("name", "scheduler", "option"),
    [
        ("Stable Diffusion", "DDIMScheduler", ("beta_schedule", "scaled_linear")),
        ("Stable Diffusion 3", "FlowMatchEulerDiscreteScheduler", ("shift", 3.0)),
        ("Sana", "FlowMatchEulerDiscreteScheduler", ("use_dynamic_shifting", False)),
    ],
)
def test_a_run_names_its_scheduler_device_and_threads(
    tmp_path: Path, name: str, scheduler: str, option: tuple[str, object]
) -> None:
    """Flow matching is not DDIM, also where the pipeline has a scheduler of diffusion."""
    run = open_run(tmp_path / "run", Model(make(name)), [Prompt("a")], AnyRun())
    environment = Run.load(run.folder).manifest.environment
    assert environment.scheduler == scheduler
    assert environment.scheduler_config[option[0]] == option[1]
    assert not any(key.startswith("_") for key in environment.scheduler_config)
    assert (environment.device, environment.threads) == ("cpu", torch.get_num_threads())
