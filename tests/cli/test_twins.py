"""Which never-trained models an audit compares with."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from unmemorize import Model, Prompt, testbed
from unmemorize.cli._edited import twins_for
from unmemorize.cli._model_options import LoadingOptions
from unmemorize.pipelines import Loading
from unmemorize.testbed import _twins

OPTIONS = LoadingOptions()


def named(pipe: DiffusionPipeline) -> Model:
    """As a command loads it."""
    return Model(pipe, loading=Loading("testbed", "cpu").resolved())


def test_the_bundled_model_brings_its_own_twins(bundled: DiffusionPipeline) -> None:
    entries = [testbed.planted()[index] for index in (0, 20, 1)]
    first, *others = [entry.half for entry in entries]
    assert {first, *others} == {"a", "b"}
    twins = twins_for(named(bundled), OPTIONS, None, [entry.prompt for entry in entries], None)
    found = {index: twin.model.denoiser for twin in twins for index in twin.prompts}
    assert sorted(found) == [0, 1, 2]
    for index, entry in enumerate(entries):
        file = testbed.twin(entry.half) / "diffusion_pytorch_model.safetensors"
        expected = {name: value.float() for name, value in load_file(file).items()}
        own = found[index].state_dict()
        assert all(torch.equal(own[name], value) for name, value in expected.items())
        assert not torch.equal(own["conv_in.weight"], bundled.unet.conv_in.weight)
    for each in twins:  # workers load it again, which was refused
        assert each.model.loading is not None
        worker = pickle.loads(pickle.dumps(each.model.loading)).for_worker(0)
        assert Model.from_loading(worker).fingerprint == each.model.fingerprint


def test_other_controls_or_other_prompts_take_their_place(
    bundled: DiffusionPipeline, tmp_path: Path
) -> None:
    model, planted = named(bundled), testbed.planted()[0].prompt
    assert twins_for(model, OPTIONS, None, [planted], tmp_path) == ()
    assert twins_for(model, OPTIONS, None, [planted, Prompt("a cat")], None) == ()


def test_missing_twins_are_told(
    bundled: DiffusionPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_twins, "TWINS", tmp_path)
    assert twins_for(named(bundled), OPTIONS, None, [testbed.planted()[0].prompt], None) == ()
    assert "the twins are too large for the package" in " ".join(capsys.readouterr().out.split())


def test_another_model_may_be_the_twin(bundled: DiffusionPipeline) -> None:
    prompts = [Prompt("a cat"), Prompt("a dog")]
    (twin,) = twins_for(named(bundled), OPTIONS, "testbed", prompts, None)
    assert twin.prompts == (0, 1)
