"""Wanda, ESD and SISS beside their formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from PIL import Image
from torch import Tensor

from conftest import make_pipeline, with_perturbed_attention
from drawings import predicted, state_of, texts
from unmemorize import (
    ClosedFormEdit,
    Erased,
    GenerationSettings,
    Localization,
    MitigationError,
    Model,
    NeuronEdit,
    Neurons,
    Prompt,
    Suspect,
)
from unmemorize.generation import PrunedEdit, WeightEdit
from unmemorize.methods import _esd, _siss, method_of
from unmemorize.methods._esd import Esd
from unmemorize.methods._latents import encoded_images
from unmemorize.methods._siss import Sample, importance
from unmemorize.methods._training import training
from unmemorize.methods._wanda import pruned


@pytest.fixture
def suspect(tmp_path: Path) -> Suspect:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return Suspect(
        prompt=Prompt("a cat", images=(tmp_path / "image.png",)),
        ordinary=("a dog",),
        settings=GenerationSettings(steps=12, guidance=3.0, batch=2),
    )


def test_weights_are_pruned_by_rows() -> None:
    """In loops over timesteps, rows and weights."""
    rng = np.random.default_rng(0)
    weight, target, base = rng.normal(size=(3, 10)), rng.random((2, 10)), rng.random((2, 10))
    expected = set()
    for time in range(2):
        for row in range(3):
            scores = [abs(weight[row, column]) * target[time, column] for column in range(10)]
            for column in sorted(range(10), key=lambda each: -scores[each])[:3]:
                if target[time, column] > base[time, column]:
                    expected.add(10 * row + column)
    found = pruned(torch.from_numpy(weight), torch.from_numpy(target), torch.from_numpy(base), 0.3)
    assert set(found) == expected
    assert 0 < len(expected) < 18


def test_wanda_reads_the_first_ten_steps(suspect: Suspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmemorize.methods._wanda._IMAGES", 3)
    pipe = make_pipeline()
    model = Model(pipe)
    before = state_of(pipe)
    edit = method_of("wanda=.05").fit(model, suspect)
    assert isinstance(edit, PrunedEdit)
    assert state_of(pipe) == before
    norms = {}
    for prompt in ("a cat", ""):
        squares = torch.zeros(10, 64, dtype=torch.float64)
        path = "mid_block.attentions.0.transformer_blocks.0.ff.net.2"
        layer = pipe.unet.get_submodule(path)
        step = [0]

        def note(_layer: Any, args: Any, squares: Tensor = squares, step: Any = step) -> None:
            rows = args[0].double().reshape(-1, 64)
            squares[step[0]] += ((rows / rows.norm(dim=1, keepdim=True)) ** 2).sum(0)

        handle = layer.register_forward_pre_hook(note)
        latents = torch.randn((3, 4, 16, 16), generator=torch.Generator().manual_seed(0))
        scheduler = pipe.scheduler
        scheduler.set_timesteps(12)
        for step[0], timestep in enumerate(scheduler.timesteps[:10]):
            without = predicted(pipe, latents, timestep, texts(pipe, [""] * 3))
            with_text = predicted(pipe, latents, timestep, texts(pipe, [prompt] * 3))
            guided = without + 3 * (with_text - without)
            latents = scheduler.step(guided, timestep, latents).prev_sample
        handle.remove()
        norms[prompt] = squares.sqrt()
    expected = pruned(layer.weight, norms["a cat"], norms[""], 0.05)
    found = edit.entries.get(path, ())
    assert len(set(found) ^ set(expected)) <= 0.05 * len(expected)  # ties within rounding
    assert len(expected) > 10


def test_wanda_leaves_a_pipeline_that_it_ends_early_as_it_was(
    suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perturbed-attention guidance puts its processors back at the end of a call alone."""
    monkeypatch.setattr("unmemorize.methods._wanda._IMAGES", 1)
    pipe = with_perturbed_attention(make_pipeline())
    before = pipe.unet.attn_processors
    method_of("wanda=.05").fit(Model(pipe), suspect)
    assert pipe.unet.attn_processors == before


@pytest.mark.parametrize("on_all", [False, True])
def test_wanda_prunes_layers_with_a_lora_by_what_they_compute_with(
    suspect: Suspect, monkeypatch: pytest.MonkeyPatch, on_all: bool
) -> None:
    """As if the LoRA were part of the weights."""
    monkeypatch.setattr("unmemorize.methods._wanda._IMAGES", 2)
    styled, whole = make_pipeline(), make_pipeline()
    names = [name for name, _ in styled.unet.named_modules() if name.endswith(".ff.net.2")]
    targets = names if on_all else names[:1]
    torch.manual_seed(0)
    lora = LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    styled.unet.add_adapter(lora, "style")
    for name in targets:
        adapted, layer = styled.unet.get_submodule(name), whole.unet.get_submodule(name)
        added = 3 * adapted.lora_B["style"].weight @ adapted.lora_A["style"].weight
        layer.weight.data += added.detach()
    found = method_of("wanda=.05").fit(Model(styled), suspect)
    expected = method_of("wanda=.05").fit(Model(whole), suspect)
    assert isinstance(found, PrunedEdit)
    assert isinstance(expected, PrunedEdit)
    assert set(expected.entries) == set(names)
    for name in names:
        ours, others = set(found.entries.get(name, ())), set(expected.entries[name])
        assert len(ours ^ others) <= 0.05 * len(others)  # ties within rounding


def test_wanda_says_what_is_missing(
    pipe: DiffusionPipeline, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmemorize.methods._wanda._IMAGES", 1)
    with pytest.raises(MitigationError, match="prunes no weight"):
        method_of("wanda=.01").fit(Model(pipe), suspect)
    for module in [name for name, _ in pipe.unet.named_modules() if name.endswith(".ff")]:
        pipe.unet.get_submodule(module).net[2] = torch.nn.Identity()
    with pytest.raises(MitigationError, match=r"no linear layers called ff.net.2"):
        method_of("wanda=.05").fit(Model(pipe), suspect)


@pytest.mark.parametrize("with_image", [True, False])
def test_esd_leads_away_from_the_prompt(
    with_image: bool, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmemorize.methods._esd._STEPS", 4)
    pipe = make_pipeline()
    model = Model(pipe)
    before = state_of(pipe)
    weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    if not with_image:
        suspect = Suspect(prompt=Prompt("a cat"), settings=suspect.settings)
    edit = Esd(10, rate=1e-3).fit(model, suspect)
    assert isinstance(edit, WeightEdit)
    assert state_of(pipe) == before
    assert all(torch.equal(value, weights[name]) for name, value in pipe.unet.state_dict().items())
    assert all(
        name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in edit.differences
    )
    assert edit.source == "esd"
    latents, timestep = model.draw_latents(4, 9), torch.tensor(500)
    text, empty = texts(pipe, ["a cat"] * 4), texts(pipe, [""] * 4)
    with_text = predicted(pipe, latents, timestep, text)
    target = with_text - 2 * (with_text - predicted(pipe, latents, timestep, empty))
    with edit.applied(model, [True]):
        after = predicted(pipe, latents, timestep, text)
    assert float((after - target).norm()) < 0.98 * float((with_text - target).norm())
    if with_image:
        assert Esd(10, rate=1e-3).fit(model, suspect) == edit


def apart(found: WeightEdit, trained: Any, before: Any) -> float:
    """How far an edit is from what a loop has trained, relative to its size."""
    expected = {
        name: value.detach().double() - before[name].double()
        for name, value in trained.named_parameters()
        if name in found.differences
    }
    errors = [(found.differences[name] - value).norm() for name, value in expected.items()]
    sizes = [value.norm() for value in expected.values()]
    return float(torch.stack(errors).norm() / torch.stack(sizes).norm())


def kept_calls(monkeypatch: pytest.MonkeyPatch, path: str, function: Any) -> list[Any]:
    """What a function of a module returns from now on."""
    results: list[Any] = []

    def kept(*args: Any) -> Any:
        results.append(function(*args))
        return results[-1]

    monkeypatch.setattr(path, kept)
    return results


@pytest.mark.parametrize("eta", [2.0, 1.0])
def test_esd_takes_the_steps_of_its_formula(
    eta: float, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of Adam and eta = 2; with another eta large steps lead elsewhere."""
    assert Esd().rate == 5e-5
    drawn = kept_calls(monkeypatch, "unmemorize.methods._esd._samples", _esd._samples)
    found = Esd(10, rate=0.02).fit(Model(make_pipeline()), suspect)
    pipe = make_pipeline()
    before = {name: value.clone() for name, value in pipe.unet.named_parameters()}
    pipe.unet.requires_grad_(True)
    text, empty = texts(pipe, ["a cat"]), texts(pipe, [""])
    ((samples, times),) = drawn
    targets = []
    for sample, time in zip(samples.split(1), times, strict=True):
        frozen, without = (predicted(pipe, sample, time, each) for each in (text, empty))
        targets.append(frozen - eta * (frozen - without))
    names = [name for name in before if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    assert set(names) == set(found.differences)
    optimizer = torch.optim.Adam([pipe.unet.get_parameter(name) for name in names], lr=0.02)
    for sample, time, target in zip(samples.split(1), times, targets, strict=True):
        optimizer.zero_grad()
        prediction = pipe.unet(sample, time, encoder_hidden_states=text).sample
        ((prediction - target) ** 2).mean().backward()
        optimizer.step()
    assert (apart(found, pipe.unet, before) < 0.02) == (eta == 2)


@pytest.mark.parametrize("ascent", [750.0, 7.5])
def test_siss_takes_the_steps_of_its_formula(
    ascent: float, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of AdamW over both gradients, of which the subtracted one has the norm 750."""
    monkeypatch.setattr("unmemorize.methods._siss._KEPT", 2)
    monkeypatch.setattr("unmemorize.methods._siss._BATCH", 4)
    drawn = kept_calls(monkeypatch, "unmemorize.methods._siss._drawn", _siss._drawn)
    found = method_of("siss=3").fit(Model(make_pipeline()), suspect)
    assert isinstance(found, WeightEdit)
    assert len(drawn) == 12
    pipe = make_pipeline()
    before = {name: value.clone() for name, value in pipe.unet.named_parameters()}
    pipe.unet.requires_grad_(True)
    weights, text = list(pipe.unet.parameters()), texts(pipe, ["a cat"])
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=1e-2)
    for step in range(3):
        sums = [[torch.zeros_like(weight) for weight in weights] for _ in range(2)]
        for sample in drawn[4 * step : 4 * step + 4]:
            prediction = pipe.unet(sample.noisy, sample.timestep, encoder_hidden_states=text).sample
            errors, likely = [], []
            for clean in (sample.kept, sample.deleted):
                noise = (sample.noisy - sample.signal * clean) / sample.sigma
                errors.append(((prediction - noise) ** 2).sum())
                likely.append((noise.double() ** 2).sum() / 2)
            shares = torch.softmax(-torch.stack(likely), 0)  # of the mixture, half each
            for total, share, error in zip(sums, 2 * shares.float(), errors, strict=True):
                gradients = torch.autograd.grad(
                    share * error, weights, retain_graph=True, allow_unused=True
                )
                for sum_, gradient in zip(total, gradients, strict=True):
                    sum_ += 0 if gradient is None else gradient
        norm = float(torch.cat([gradient.flatten() for gradient in sums[1]]).norm())
        for weight, towards, away in zip(weights, *sums, strict=True):
            # where all samples come from images to keep, there is nothing to subtract
            weight.grad = towards / 4 - (ascent / norm * away if norm > 1e-6 else 0)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    assert (apart(found, pipe.unet, before) < 0.02) == (ascent == 750)


def test_importance() -> None:
    """Beside Gaussian densities, and (1 - lambda) w_x + lambda w_a = 1."""
    generator = torch.Generator().manual_seed(0)
    noisy, keep, delete = torch.randn(3, 6, generator=generator).double()
    found = importance(noisy, keep, delete, 0.8, 0.6)
    densities = [
        float(torch.exp(-((noisy - 0.8 * clean) ** 2).sum() / (2 * 0.6**2)))
        for clean in (keep, delete)
    ]
    mixture = (densities[0] + densities[1]) / 2
    assert found == pytest.approx([density / mixture for density in densities], rel=1e-5)
    assert sum(found) / 2 == pytest.approx(1)
    far = importance(1000 * noisy, keep, delete, 1.0, 1e-3)
    assert sorted(far) == pytest.approx([0, 2], abs=1e-6)


def test_losses_of_a_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy, keep, delete, prediction = torch.randn(4, 1, 2, 2, 2, generator=generator)
    sample = Sample(noisy, torch.tensor(3), keep, delete, 0.8, 0.6)
    weights = importance(noisy, keep, delete, 0.8, 0.6)
    for weight, clean, loss in zip(weights, (keep, delete), sample.losses(prediction), strict=True):
        errors = (prediction - (noisy - 0.8 * clean) / 0.6) ** 2
        assert float(loss) == pytest.approx(weight * float(errors.sum()), rel=1e-5)


def test_siss_predicts_the_deleted_image_worse(
    suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmemorize.methods._siss._KEPT", 2)
    monkeypatch.setattr("unmemorize.methods._siss._BATCH", 4)
    pipe = make_pipeline()
    model = Model(pipe)
    before = state_of(pipe)
    method: Any = method_of("siss=3")
    edit = method.fit(model, suspect)
    assert state_of(pipe) == before
    assert len(edit.differences) == len(list(pipe.unet.parameters()))
    clean = encoded_images(model, suspect.prompt.images, "siss").expand(8, -1, -1, -1)
    noise, timestep = model.draw_latents(8, 11), torch.tensor(400)
    noisy = model.noise_level(timestep).noisy(clean, noise)
    text = texts(pipe, ["a cat"] * 8)
    error = (predicted(pipe, noisy, timestep, text) - noise).square().mean()
    with edit.applied(model, [True]):
        after = (predicted(pipe, noisy, timestep, text) - noise).square().mean()
    assert float(after) > float(error)


def test_siss_needs_images(pipe: DiffusionPipeline) -> None:
    with pytest.raises(MitigationError, match="names no training image"):
        method_of("siss").fit(Model(pipe), Suspect(prompt=Prompt("a cat")))


def test_noise_is_added_by_the_schedule(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    clean, noise = model.draw_latents(2, 1), model.draw_latents(2, 2)
    signal = float(pipe.scheduler.alphas_cumprod[400])
    expected = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
    assert torch.allclose(model.noise_level(torch.tensor(400)).noisy(clean, noise), expected)


@pytest.mark.parametrize("method", ["esd=1", "siss=1"])
def test_adapted_models_are_not_trained(
    method: str, pipe: DiffusionPipeline, suspect: Suspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before anything is drawn."""
    adapter = LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False)
    pipe.unet.add_adapter(adapter)
    model = Model(pipe)
    assert model.value_input == "text"  # what a model looks at needs the pipeline
    monkeypatch.setattr(type(pipe), "__call__", None)
    with pytest.raises(MitigationError, match="has an adapter, so it cannot be trained"):
        method_of(method).fit(model, suspect)


def test_weights_are_put_back_after_an_exception(pipe: DiffusionPipeline) -> None:
    model, before = Model(pipe), state_of(pipe)

    def train() -> None:
        with training(model, ["conv_in"], "esd") as weights:
            weights.values()[0].data += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert state_of(pipe) == before
    pipe.unet.half()
    with (
        pytest.raises(MitigationError, match=r"loaded in torch\.float16"),
        training(model, ["conv_in"], "esd"),
    ):
        pass


@pytest.mark.parametrize(("strength", "scale"), [(1.0, 0.0), (1.25, -0.25), (0.5, 0.5)])
def test_neurons_of_the_asked_refinement(
    strength: float, scale: float, localized: Path, planted: DiffusionPipeline
) -> None:
    from dataclasses import replace

    from unmemorize import Run, read_localizations

    record: Localization = read_localizations(Run.load(localized), only_memorized=True)[1]
    one = next(iter(record.neurons))
    greedy = replace(record, refinement="greedy", neurons=Neurons.of([one]))
    suspect = Suspect(prompt=Prompt(record.prompt), localizations=(greedy, record))
    model = Model(planted)
    assert method_of(f"neurons={strength}").fit(model, suspect) == NeuronEdit(record.neurons, scale)
    edit = method_of(f"neurons-greedy={strength}").fit(model, suspect)
    assert edit == NeuronEdit(greedy.neurons, scale)


def test_closed_form(pipe: DiffusionPipeline, suspect: Suspect) -> None:
    edit = method_of("closed-form=3").fit(Model(pipe), suspect)
    assert edit == ClosedFormEdit((Erased("a cat", 3.0),), ("a dog",))
