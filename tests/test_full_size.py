"""Denoisers of full size with random weights: their layers, cost, and exact edits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from full_size import stable_diffusion_1, stable_diffusion_xl
from unmemorize import (
    LocalizationSettings,
    Model,
    Neurons,
    NoiseSettings,
    Threshold,
    compute_statistics,
    localize,
    switched_off,
)
from unmemorize.pipelines import select_value_layers

GIB = 1024**3


def peak_memory() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "widths", "searched", "noise", "most"),
    [
        (
            stable_diffusion_1,
            [320, 320, 640, 640, 1280, 1280, 1280],
            "mid_block.*",
            NoiseSettings(seeds=2),
            10,
        ),
        (
            stable_diffusion_xl,
            [640] * 4 + [1280] * 30,
            "mid_block.attentions.0.transformer_blocks.9.*",
            NoiseSettings(seeds=2),
            16,
        ),
    ],
)
def test_full_size(
    make: Callable[[], Any],
    widths: list[int],
    searched: str,
    noise: NoiseSettings,
    most: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe = make()
    model = Model(pipe)
    layers = select_value_layers(model.value_layers)
    assert [model.widths[path] for path in layers] == widths
    statistics = compute_statistics(pipe, ["a b", "c d", "e f", "g h"])
    settings = LocalizationSettings(
        noise=noise, layers=searched, theta=1e6, theta_floor=1e6 - 0.2, top_k=1
    )  # one step
    found = localize(
        pipe,
        "zebra quartz",
        statistics=statistics,
        threshold=Threshold.given(pipe, 1e-6, noise),
        settings=settings,
    )
    assert found.memorized
    assert len(found.initial) == len(select_value_layers(model.value_layers, searched))
    assert (found.top_k, found.theta) == (1, 1e6)
    path = list(layers)[-1]
    text, latents, timestep = (
        model.encode(["zebra"]),
        model.draw_latents(1, 0),
        model.timesteps(50)[1],
    )
    with switched_off(pipe, Neurons({path: [5, 7]})):
        off = model.predict(latents, timestep, text)
    layers[path].weight.data[[5, 7]] = 0
    assert torch.equal(model.predict(latents, timestep, text), off)
    with capsys.disabled():
        samples = (
            f"{found.evaluations} samples ({found.work:.1f} weighted) in {found.seconds:.0f} s"
        )
        print(
            f"\n{make.__name__}: {len(layers)} layers searched by default, {samples}, "
            f"peak memory {peak_memory():.1f} GiB"
        )
    assert peak_memory() < most
