"""The fingerprint tells models apart where results differ, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

from architectures import ARCHITECTURES, make
from conftest import PROMPTS, make_pipeline
from unmemorize import (
    Model,
    NeuronError,
    NeuronFile,
    Neurons,
    StatisticsError,
    Threshold,
    ThresholdError,
    compute_statistics,
)
from unmemorize.pipelines import Loading, networks_of

OLD = hashlib.sha256(b"").hexdigest()
"""A fingerprint as the first edition wrote them."""


def fingerprint(change: Callable[[Any], object] = lambda _pipe: None) -> str:
    pipe = make_pipeline()
    change(pipe)
    return Model(pipe).fingerprint


def euler(pipe: Any) -> None:
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)


SAME: dict[str, Callable[[Any], object]] = {
    "float16": lambda pipe: pipe.to(torch.float16),
    "sequential offload": lambda pipe: accelerate.cpu_offload(pipe.unet, torch.device("cpu")),
    "offloaded text encoder": lambda pipe: accelerate.cpu_offload(
        pipe.text_encoder, torch.device("cpu")
    ),
    "model offload": lambda pipe: accelerate.cpu_offload_with_hook(
        pipe.unet, execution_device=torch.device("cpu")
    ),
    "group offload by block": lambda pipe: pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    ),
    "group offload by leaf": lambda pipe: pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="leaf_level"
    ),
    "compiled": lambda pipe: setattr(pipe, "vae", torch.compile(pipe.vae, backend="eager")),
    "sliced": lambda pipe: pipe.enable_attention_slicing(1),
    "channels last": lambda pipe: pipe.unet.to(memory_format=torch.channels_last),
    "another scheduler of the same noise": euler,
}


@pytest.mark.parametrize("name", SAME)
def test_storage_does_not_count(name: str) -> None:
    assert fingerprint(SAME[name]) == fingerprint()


SOLVERS = (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_of_the_same_noise_do_not_count(solver: Any, prediction: str) -> None:
    """They have a shift for flows, which they do not use here."""

    def predict(pipe: Any) -> None:
        kind, config = type(pipe.scheduler), pipe.scheduler.config
        pipe.scheduler = kind.from_config(config, prediction_type=prediction)

    def solve(pipe: Any) -> None:
        predict(pipe)
        pipe.scheduler = solver.from_config(pipe.scheduler.config)
        assert pipe.scheduler.config.flow_shift == 1.0
        assert pipe.scheduler.config.prediction_type == prediction

    assert fingerprint(solve) == fingerprint(predict)


def test_the_shift_of_a_flow_counts() -> None:
    def fingerprint_at(shift: float, kind: str) -> str:
        pipe: Any = make("Sana" if kind == "solver" else "Stable Diffusion 3")
        if kind == "solver":
            pipe.scheduler.register_to_config(flow_shift=shift)
        else:
            pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        return Model(pipe).fingerprint

    for kind in ("solver", "flow matching"):
        assert fingerprint_at(2.0, kind) == fingerprint_at(2.0, kind)
        assert fingerprint_at(2.0, kind) != fingerprint_at(3.0, kind)


def test_files_are_read_where_accelerate_keeps_them(tmp_path: Path) -> None:
    def offload(pipe: Any) -> None:
        accelerate.disk_offload(pipe.unet, str(tmp_path), execution_device=torch.device("cpu"))
        assert next(pipe.unet.parameters()).is_meta

    assert fingerprint(offload) == fingerprint()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_counts(name: str) -> None:
    """One number in the last weight of each."""
    pipe = make(name)
    found = {Model(pipe).fingerprint}
    networks = networks_of(pipe)
    for network in networks.values():
        weight = list(network.parameters())[-1].data
        before = weight.clone()
        weight.view(-1)[-1] += 0.125
        found.add(Model(pipe).fingerprint)
        weight.copy_(before)
    assert len(found) == 1 + len(networks)


DIFFERENT: dict[str, Callable[[Any], object]] = {
    "bfloat16": lambda pipe: pipe.to(torch.bfloat16),
    "a bias of the VAE": lambda pipe: pipe.vae.decoder.conv_out.bias.data[0].add_(0.125),
    "prediction": lambda pipe: pipe.scheduler.register_to_config(prediction_type="v_prediction"),
    "noise": lambda pipe: setattr(pipe, "scheduler", DDPMScheduler()),
    "two equal layers exchanged": lambda pipe: pipe.text_encoder.load_state_dict(
        {
            key.replace("layers.0", "layers.x")
            .replace("layers.1", "layers.0")
            .replace("layers.x", "layers.1"): value
            for key, value in pipe.text_encoder.state_dict().items()
        }
    ),
}


def test_what_changes_results_counts() -> None:
    assert len({fingerprint(), *map(fingerprint, DIFFERENT.values())}) == 1 + len(DIFFERENT)


def adapt(pipe: Any, **options: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2, target_modules=["to_k", "to_v"], init_lora_weights=False, **options
    )
    pipe.unet.add_adapter(config, adapter_name="other")


def test_adapters_count_as_far_as_they_have_an_effect() -> None:
    pipe = make_pipeline()
    plain = Model(pipe).fingerprint
    adapt(pipe)
    on = Model(pipe).fingerprint
    pipe.unet.set_adapters(["other"], 0.5)
    half = Model(pipe).fingerprint
    pipe.unet.set_adapters(["other"], 0.0)
    assert Model(pipe).fingerprint == plain
    pipe.unet.set_adapters(["other"], 1.0)
    assert Model(pipe).fingerprint == on
    pipe.unet.disable_adapters()
    assert Model(pipe).fingerprint == plain
    pipe.unet.enable_adapters()
    pipe.fuse_lora(components=["unet"])
    fused = Model(pipe).fingerprint
    pipe.unload_lora_weights()
    assert Model(pipe).fingerprint == fused
    assert len({plain, on, half, fused}) == 4


def test_merged_adapters_that_are_disabled_leave_at_the_next_call() -> None:
    pipe = make_pipeline()
    adapt(pipe)
    pipe.fuse_lora(components=["unet"])
    fused = Model(pipe).fingerprint
    pipe.unet.disable_adapters()
    assert Model(pipe).fingerprint != fused


def test_a_text_encoder_may_have_the_adapter() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    adapted = fingerprint(lambda pipe: pipe.text_encoder.add_adapter(config))
    assert adapted != fingerprint()


def test_a_saved_model_has_it_in_every_form(tmp_path: Path) -> None:
    """Whole, in shards, as a variant."""
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    pipe.to(torch.float16).save_pretrained(tmp_path / "variant", variant="fp16")
    for form, variant in (("whole", None), ("shards", None), ("variant", "fp16")):
        folder = str(tmp_path / form)
        loading = Loading(folder, "cpu", variant=variant, local_files_only=True)
        assert Model.from_loading(loading).fingerprint == fingerprint()


def test_fingerprints_of_the_first_edition_are_refused_by_their_name() -> None:
    model = Model(make_pipeline())
    named = "of the first edition, which covered only the value layers"
    layer = next(iter(model.value_layers))
    neurons = NeuronFile(neurons=Neurons({layer: [1]}), model="m", fingerprint=OLD)
    with pytest.raises(NeuronError, match=f"{OLD[:12]} {named}.*or localize again"):
        neurons.check(model)
    statistics = replace(compute_statistics(model, PROMPTS[:2]), fingerprint=OLD)
    with pytest.raises(StatisticsError, match=named):
        statistics.check(model, model.value_layers)
    threshold = replace(Threshold.given(model, 0.4), fingerprint=OLD)
    with pytest.raises(ThresholdError, match=f"{named}.*unmemorize threshold --model"):
        threshold.check(model, threshold.settings)
    another = replace(threshold, fingerprint=model.fingerprint[:-1])
    with pytest.raises(ThresholdError) as other:
        another.check(model, another.settings)
    assert "first edition" not in str(other.value)
