"""Tiny models in folders, and neurons of them, for the tests of exports.

Fixtures are imported by the modules that use them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from architectures import make
from unmemorize import Model, NeuronFile, Neurons
from unmemorize.pipelines import text_rows_only

Saved = Callable[[str], Model]
"""Architecture -> its model, loaded from a folder."""


def saved(name: str, folder: Path, seed: int = 0) -> Model:
    """A tiny model of an architecture, loaded from the folder that it is saved to."""
    make(name, seed).save_pretrained(folder)
    return Model.load(str(folder), device="cpu", local_files_only=True)


def some_neurons(model: Model, scale: float = 0.0) -> NeuronFile:
    """Neurons 1 and 3 of each layer that weights can switch off."""
    layers = [path for path in model.value_layers if not text_rows_only(path)]
    return NeuronFile.of(model, Neurons({path: [1, 3] for path in layers}), scale=scale)


def uneven_neurons(model: Model, scale: float) -> NeuronFile:
    """One to three neurons per layer, others in each, so that no two layers can be confused."""
    layers = [path for path in model.value_layers if not text_rows_only(path)]
    chosen = {
        path: range(number, 2 * number % 3 + number + 1) for number, path in enumerate(layers)
    }
    widths = model.widths
    return NeuronFile.of(
        model,
        Neurons({path: [i % widths[path] for i in indices] for path, indices in chosen.items()}),
        scale=scale,
    )


def prediction(model: Model) -> torch.Tensor:
    """One call of the denoiser on fixed noise, (2, C, H, W)."""
    text = model.encode(["a prompt", "another"])
    return model.predict(model.draw_latents(2, 0), model.timesteps(50)[1], text)


@pytest.fixture(scope="module", name="saved_model")
def saved_model_fixture(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Architecture -> its model, loaded from a folder once."""

    @cache
    def once(name: str) -> Model:
        return saved(name, tmp_path_factory.mktemp("model") / "base")

    return once


@pytest.fixture(name="model")
def model_fixture(saved_model: Saved) -> Model:
    """A Stable Diffusion model that was loaded from a folder; tests leave both as they are."""
    return saved_model("Stable Diffusion")


@pytest.fixture(name="own_model")
def own_model_fixture(model: Model, tmp_path: Path) -> Model:
    """The same in tmp_path/base, which a test may change."""
    assert model.loading is not None
    shutil.copytree(model.loading.model, tmp_path / "base")
    return Model.load(str(tmp_path / "base"), device="cpu", local_files_only=True)
