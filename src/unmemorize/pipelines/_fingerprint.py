"""The fingerprint of a pipeline: equal where results are, whatever the weights are kept in."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from diffusers import DiffusionPipeline

from unmemorize.pipelines._sampler import is_flow
from unmemorize.pipelines._weights import Weight, networks_of, weights_in

_EDITION = "v2-"
"""What fingerprints begin with. Those of the first edition are 64 digits alone."""
_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""Settings of schedulers that decide how noisy a timestep is. How steps are spaced is not among
them, because a threshold knows its timestep."""
_FLOW_SCHEDULE = ("shift", "flow_shift", "use_dynamic_shifting")
"""What decides it beside these for flow matching. DPMSolver and others have such settings for every
model, but use them for flows alone."""


def fingerprint_of(pipe: DiffusionPipeline) -> str:
    """Hash all weights of all networks that take part, adapters in effect, and the noise schedule.

    Weights count by their values, rounded to float16, in the order of the modules. Names do not
    count, because releases of transformers rename modules.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for component, network in networks_of(pipe).items():
            digest.update(f"{component} {type(network).__name__}\n".encode())
            for part in pool.map(_digest, weights_in(network)):
                digest.update(part)
    digest.update(_schedule(pipe).encode())
    return _EDITION + digest.hexdigest()


def is_first_edition(fingerprint: str) -> bool:
    """Whether a fingerprint is one of the first edition, which hashed the value layers alone."""
    return len(fingerprint) == 64 and not fingerprint.startswith(_EDITION)


def _digest(weight: Weight) -> bytes:
    value = weight.value()
    rounded = value.to("cpu", torch.float16).contiguous()
    digest = hashlib.sha256(f"{weight.role} {tuple(value.shape)}\n".encode())
    digest.update(rounded.numpy().data)
    return digest.digest()


def _schedule(pipe: Any) -> str:
    scheduler = getattr(pipe, "scheduler", None)
    config = getattr(scheduler, "config", {})
    names = _SCHEDULE + _FLOW_SCHEDULE if is_flow(scheduler) else _SCHEDULE
    settings = {name: config[name] for name in names if config.get(name)}
    return f"{config.get('prediction_type', 'epsilon')} {settings}"
