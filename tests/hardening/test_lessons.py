"""What training sees, and what a step does, beside plain formulas."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image, ImageChops, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import make_pipeline
from drawings import state_of, texts
from unmemorize import HardeningSettings, MitigationError, Model
from unmemorize.audit import Bench, Target
from unmemorize.export import export_lora, verify
from unmemorize.generation import EditFile, LowRank, whole
from unmemorize.hardening import _training
from unmemorize.hardening._examples import Examples
from unmemorize.hardening._shifts import shifts
from unmemorize.hardening._training import DECAY, Batch, Lesson
from unmemorize.hardening._weights import layers_of, trained
from unmemorize.methods import optimizer_of, saved

CAPTIONS = ("a hill", "a sea", "a dog")
TARGETS = (
    Target(key="one", prompt="red cat", images=(), paraphrases=("cat in red", "a red cat")),
    Target(key="two", prompt="blue cat", images=()),
)
KEYS = "mid_block.attentions.0.*attn2.to_k"


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predicted(pipe: Any, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """The U-Net's own prediction, with gradients."""
    output: Tensor = pipe.unet(latents, timestep, encoder_hidden_states=text).sample
    return output


def lesson_of(model: Model, **settings: Any) -> Lesson:
    examples = Examples((random(1, 3, 4, 16, 16), random(2, 2, 4, 16, 16)),
                        random(3, 3, 4, 16, 16), CAPTIONS)  # fmt: skip
    settings = {"steps": 12, "rate": 1e-3, "objective": "substitutes", **settings}
    return Lesson(Bench(model, None, CAPTIONS), TARGETS, examples, HardeningSettings(**settings))


def found_in(model: Model) -> list[list[Tensor]]:
    shape = model.encode(["a"]).text.shape[1:]
    return [[random(4, *shape), random(5, *shape)], [random(6, *shape)]]


def test_what_is_wanted_of_substitutes() -> None:
    """Clean latents of substitutes are computed back from noise, signal and what is wanted."""
    pipe = make_pipeline()
    model = Model(pipe)
    lesson, found = lesson_of(model, steps=4), found_in(model)
    batches = list(lesson.batches(2, found))
    assert len(batches) == 4 * 2
    power = pipe.scheduler.alphas_cumprod
    wordings = [[target.prompt, *target.paraphrases] for target in TARGETS]
    every = ["", *CAPTIONS, *wordings[0], *wordings[1]]
    encoded = dict(zip(every, texts(pipe, every), strict=True))
    attacked, seen, kept = 0, set[tuple[int, str]](), list[str]()
    for batch in batches:
        shares = power[batch.timesteps].view(-1, 1, 1, 1)
        clean = (batch.latents - (1 - shares).sqrt() * batch.wanted) / shares.sqrt()
        for row in range(batch.forgotten):
            text = batch.text.text[row]
            under_attack = [
                place
                for place, some in enumerate(found)
                if any(torch.equal(text, embedding) for embedding in some)
            ]
            attacked += len(under_attack)
            (place,) = {
                place
                for place, some in enumerate(lesson.examples.substitutes)
                for one in some
                if torch.allclose(clean[row], one, atol=1e-2)
            }
            if under_attack:
                assert under_attack == [place]
                continue
            (words,) = {words for words in wordings[place] if torch.allclose(text, encoded[words])}
            seen.add((place, words))
        text = batch.text.text[batch.forgotten :]
        for one in text:
            (words,) = {words for words in ("", *CAPTIONS) if torch.allclose(one, encoded[words])}
            kept.append(words)
        with torch.no_grad():
            before = predicted(pipe, batch.latents[8:], batch.timesteps[8:], text)
        assert torch.allclose(before, batch.wanted[8:], atol=1e-5)
    assert seen == {(0, "red cat"), (1, "blue cat")}  # paraphrases are left for L1
    assert 0.6 < attacked / (8 * 8) < 0.9
    assert all((batch.weights == 1).all() for batch in batches)
    assert set(kept) == {"", *CAPTIONS}
    assert kept.count("") < 0.25 * len(kept)
    assert len({float(batch.latents.sum()) for batch in batches}) == 8
    other = next(iter(lesson.batches(1, found)))
    assert not torch.equal(other.latents, batches[0].latents)


def distilling(pipe: Any, **settings: Any) -> Lesson:
    """A lesson about targets with two images and with one, of the model's size."""
    model, side = Model(pipe), 16 * pipe.vae_scale_factor
    drawn = [random(seed, side, side, 3).clamp(-1, 1) * 127 + 128 for seed in (7, 8, 9)]
    images = [Image.fromarray(one.byte().numpy()) for one in drawn]
    targets = [
        replace(TARGETS[0], images=tuple(images[:2])),
        replace(TARGETS[1], images=(images[2],)),
    ]
    lesson = lesson_of(model, **settings)
    examples = replace(lesson.examples, substitutes=lesson.examples.substitutes[:1] * 2)
    return replace(lesson, targets=targets, examples=examples)


def encoded_by_hand(pipe: Any, image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    latents: Tensor = pipe.vae.encode(pixels).latent_dist.mode()[0] * pipe.vae.config.scaling_factor
    return latents


SHIFTS = tuple(product((False, True), (5, 8, 11), (5, 8, 11)))


def shifted_by_hand(pipe: Any, image: Image.Image) -> Tensor:
    """The latents of an image under all shifts."""
    found, factor = [], pipe.vae_scale_factor
    for mirrored, down, right in SHIFTS:
        other = ImageOps.mirror(image) if mirrored else image
        other = ImageChops.offset(other, right * factor, down * factor)
        found.append(encoded_by_hand(pipe, other))
    return torch.stack(found)


def predicted_for_shifts(
    pipe: Any, clean: Tensor, shifted: Tensor, noisy: Tensor, timestep: Tensor
) -> list[Tensor]:
    """What is predicted without text for each shift of an image with this noise, shifted back."""
    share = pipe.scheduler.alphas_cumprod[timestep]
    noise = (noisy - share.sqrt() * clean) / (1 - share).sqrt()
    turned = [
        (noise.flip(2) if mirrored else noise).roll(down, 1).roll(right, 2)
        for mirrored, down, right in SHIFTS
    ]
    latents = share.sqrt() * shifted + (1 - share).sqrt() * torch.stack(turned)
    with torch.no_grad():
        text = texts(pipe, [""]).expand(len(SHIFTS), -1, -1)
        found = predicted(pipe, latents, timestep, text)
    back = [
        one.roll(-right, 2).roll(-down, 1)
        for one, (_, down, right) in zip(found, SHIFTS, strict=True)
    ]
    return [
        one.flip(2) if mirrored else one for one, (mirrored, _, _) in zip(back, SHIFTS, strict=True)
    ]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_distillation_wants_what_is_predicted_without_text_for_the_shifted_image(
    kind: str,
) -> None:
    """Every wanted prediction is found again by shifting image and noise by hand."""
    pipe = make_pipeline()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    lesson = distilling(pipe, steps=3, objective="distillation")
    found = found_in(lesson.bench.model)
    captions = ["", "red cat", "blue cat"]
    encoded = dict(zip(captions, texts(pipe, captions), strict=True))
    images = [
        (place, number, encoded_by_hand(pipe, image), shifted_by_hand(pipe, image))
        for place, target in enumerate(lesson.targets)
        for number, image in enumerate(target.images)
    ]
    below, used, seen = list[str](), set[int](), set[int]()
    for batch in lesson.batches(1, found):
        for row in range(batch.forgotten):
            text, timestep = batch.text.text[row], batch.timesteps[row]
            (at,) = [
                place
                for place, keys in enumerate(found)
                if any(torch.equal(text, key) for key in keys)
            ] or [{"red cat": 0, "blue cat": 1}.get(name, -1)
                  for name, one in encoded.items() if torch.allclose(text, one)]  # fmt: skip
            known = [name for name, one in encoded.items() if torch.allclose(text, one)]
            below.append(known[0] if known else "attack")
            matches = [
                (place, number, shift)
                for place, number, clean, shifted in images
                for shift, one in enumerate(
                    predicted_for_shifts(pipe, clean, shifted, batch.latents[row], timestep)
                )
                if torch.allclose(one, batch.wanted[row], atol=5e-4)
            ]
            ((place, number, shift),) = matches
            assert at in (place, -1)
            used.add(shift)
            seen.add(2 * place + number)
        kept = slice(batch.forgotten, None)
        with torch.no_grad():
            before = predicted(
                pipe, batch.latents[kept], batch.timesteps[kept], batch.text.text[kept]
            )
        assert torch.allclose(before, batch.wanted[kept], atol=1e-5)
    assert set(below) == {"attack", *captions}
    assert 0.6 < below.count("attack") / len(below) < 0.9
    assert len(used) > 9
    assert seen == {0, 1, 2}


def test_sides_of_other_lengths_have_shifts_of_their_own() -> None:
    image = random(1, 4, 8, 24)
    for shift in shifts(8, 24):
        assert shift.down in {round(8 * part / 16) for part in (5, 8, 11)}
        assert shift.right in {round(24 * part / 16) for part in (5, 8, 11)}
        expected = torch.stack(
            [
                image[:, (row - shift.down) % 8, :].flip(1 if shift.mirrored else ())
                .roll(shift.right, 1)
                for row in range(8)
            ],
            1,
        )  # fmt: skip
        assert torch.equal(shift.of(image), expected)
        assert torch.equal(shift.back(shift.of(image)), image)


def test_errors_at_much_noise_count_more_where_noise_is_predicted() -> None:
    for kind in ("epsilon", "v_prediction"):
        pipe = make_pipeline()
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
        lesson = distilling(pipe, steps=16, objective="distillation", forgotten=4, kept=4)
        batches = list(lesson.batches(1, found_in(lesson.bench.model)))
        weights = torch.cat([batch.weights for batch in batches])
        levels = torch.cat([batch.timesteps for batch in batches]) / 1000
        expected = 0.25 * torch.exp(2.5 * levels) if kind == "epsilon" else torch.ones_like(levels)
        assert torch.allclose(weights, expected, rtol=0.01)
        assert float(weights.mean()) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(("attacked", "captions"), [(0.0, {True}), (1.0, {False})])
def test_the_control_fine_tunes_without_attacks(attacked: float, captions: set[bool]) -> None:
    pipe = make_pipeline()
    lesson = distilling(pipe, steps=3, objective="both", attacked=attacked)
    found = found_in(lesson.bench.model)
    own = texts(pipe, ["", *(target.prompt for target in TARGETS)])
    under_caption = {
        any(torch.allclose(batch.text.text[row], text) for text in own)
        for batch in lesson.batches(1, found)
        for row in range(batch.forgotten)
    }
    assert under_caption == captions


def test_without_a_weight_ordinary_images_do_not_count() -> None:
    model = Model(make_pipeline())
    lesson, found = lesson_of(model, steps=1, weights=KEYS, kept_weight=0.0), found_in(model)
    edits = []
    for kept in (1, 5):
        some = Lesson(
            lesson.bench,
            TARGETS[:1],
            Examples(lesson.examples.substitutes[:1], kept * lesson.examples.ordinary, CAPTIONS),
            lesson.settings,
        )
        with trained(model, lesson.settings) as weights:
            some.train(weights, optimizer_of(weights, 1e-2, DECAY, 0, {}), 1, found)
            (name,) = edit = weights.edit().differences
            edits.append(whole(edit[name]))
    assert torch.allclose(edits[0], edits[1], atol=1e-6)
    assert float(edits[0].abs().max()) > 1e-3


def test_ordinary_images_count_as_often_as_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(make_pipeline())
    lesson = lesson_of(model, steps=2, kept_weight=3.0)
    one, seen = Lesson(lesson.bench, TARGETS[:1], lesson.examples, lesson.settings), list[float]()
    with trained(model, lesson.settings) as weights:
        follow = weights.differentiate

        def noted(loss: Tensor) -> None:
            seen.append(loss.item())
            follow(loss)

        monkeypatch.setattr(weights, "differentiate", noted)
        losses = one.train(weights, optimizer_of(weights, 1e-2, DECAY, 0, {}), 1, found_in(model))
    assert losses[1] > 1e-6  # the second step finds a model that has changed
    assert sum(seen) / 2 == pytest.approx(losses[0] + 3 * losses[1], rel=1e-5)


def test_a_step_follows_both_losses() -> None:
    """AdamW by hand: the first step moves every weight by the rate, against its gradient."""
    pipe = make_pipeline()
    model = Model(pipe)
    before = state_of(pipe)
    lesson, found = lesson_of(model, steps=1, weights=KEYS), found_in(model)
    layer = pipe.unet.get_submodule(layers_of(model, KEYS)[0])
    old = layer.weight.detach().clone()
    one = Lesson(lesson.bench, TARGETS[:1], lesson.examples, lesson.settings)
    (batch,) = one.batches(1, found)
    weight = old.clone().requires_grad_()
    layer._parameters["weight"] = weight
    guess = predicted(pipe, batch.latents, batch.timesteps, batch.text.text)
    layer._parameters["weight"] = torch.nn.Parameter(old, requires_grad=False)
    errors = [float("nan")] * 2
    total: Tensor = torch.zeros(())
    for part, rows in enumerate((range(8), range(8, 16))):
        loss = torch.stack([((guess[row] - batch.wanted[row]) ** 2).mean() for row in rows]).mean()
        errors[part] = loss.item()
        total = total + loss
    (gradient,) = torch.autograd.grad(total, [weight])
    expected = old * (1 - 1e-3 * 1e-2) - 1e-3 * gradient / (gradient.abs() + 1e-8)
    with trained(model, lesson.settings) as weights:
        optimizer = optimizer_of(weights, 1e-3, DECAY, 0, {})
        losses = one.train(weights, optimizer, 1, found)
        assert torch.allclose(layer.weight, expected, atol=1e-6)
        edit = weights.edit()
    assert losses == pytest.approx(errors, rel=1e-4)
    assert errors[1] == pytest.approx(0, abs=1e-9)  # the unedited model is what it should be
    assert state_of(pipe) == before
    (name,) = edit.differences
    assert torch.allclose(old + whole(edit.differences[name]), expected, atol=1e-6)


def test_batches_are_as_large_as_asked_and_both_objectives_share_them() -> None:
    """Noise is wanted of substitutes alone: it gives back their clean latents."""
    pipe = make_pipeline()
    lesson = distilling(pipe, steps=8, objective="both", forgotten=6, kept=3)
    shares, drawn, rows = pipe.scheduler.alphas_cumprod, 0, 0
    for batch in lesson.batches(1, found_in(lesson.bench.model)):
        assert (len(batch.latents), batch.forgotten) == (9, 6)
        share = shares[batch.timesteps].view(-1, 1, 1, 1)
        clean = (batch.latents - (1 - share).sqrt() * batch.wanted) / share.sqrt()
        for row in range(6):
            pool = lesson.examples.substitutes[0]
            drawn += any(torch.allclose(clean[row], one, atol=1e-2) for one in pool)
            rows += 1
    assert rows > 50
    assert 0.3 < drawn / rows < 0.7


def test_the_rate_falls_in_the_last_round_only() -> None:
    model = Model(make_pipeline())
    lesson = lesson_of(model, steps=2, rounds=2, weights=KEYS, settle=True, forgotten=1, kept=1)
    rates: list[float] = []
    with trained(model, lesson.settings) as weights:
        optimizer = optimizer_of(weights, 1e-3, DECAY, 0, {})
        optimizer.register_step_pre_hook(
            lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
        )
        for number in (1, 2):
            lesson.train(weights, optimizer, number, found_in(model))
    assert rates == pytest.approx([1e-3] * 4 + [1e-3, 7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.parametrize("rank", [None, 1])
def test_what_is_wanted_is_asked_of_the_old_weights_at_any_step(
    rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps are prepared at once."""
    edits = []
    for steps in (1, 3, 32):
        monkeypatch.setattr(_training, "_IN_ADVANCE", steps)
        model = Model(make_pipeline())
        lesson = lesson_of(model, steps=2, weights=KEYS, rank=rank, rate=1e-2)
        with trained(model, lesson.settings) as weights:
            lesson.train(weights, optimizer_of(weights, 1e-2, DECAY, 0, {}), 1, found_in(model))
            edits.append(weights.edit())
    assert edits[0] == edits[1] == edits[2]


def test_both_losses_are_means_of_their_samples() -> None:
    wanted, guess = random(1, 16, 4, 2, 2), random(2, 16, 4, 2, 2)
    weights = random(3, 16).abs()
    batch = Batch(wanted, torch.zeros(16), None, wanted, weights, 8)  # type: ignore[arg-type]
    share = weights.view(-1, 1, 1, 1)
    one, two = batch.losses(guess)
    assert float(one) == pytest.approx(float((share * (guess - wanted) ** 2)[:8].mean()))
    assert float(two) == pytest.approx(float((share * (guess - wanted) ** 2)[8:].mean()))


def test_ordinary_images_hold_training_back() -> None:
    """Without them, the same steps lead further from the old predictions."""
    model = Model(make_pipeline())
    distances = []
    for kept in (1.0, 0.0):
        lesson, found = lesson_of(model, steps=3, weights="mid_block.attentions.*"), found_in(model)
        batches = list(lesson.batches(1, found))
        with trained(model, lesson.settings) as weights:
            optimizer = optimizer_of(weights, 1e-2, DECAY, 0, {})
            for batch in batches:
                guess = model.predict(batch.latents, batch.timesteps, batch.text, gradient=True)
                one, two = batch.losses(guess)
                weights.differentiate(one + kept * two)
                optimizer.step()
            fresh = list(lesson.batches(7, found))[:2]
            after = [
                model.predict(batch.latents[8:], batch.timesteps[8:], batch.text.take(range(8, 16)))
                for batch in fresh
            ]
        with trained(model, lesson.settings) as weights:
            before = [
                model.predict(batch.latents[8:], batch.timesteps[8:], batch.text.take(range(8, 16)))
                for batch in fresh
            ]
        pairs = zip(after, before, strict=True)
        distances.append(sum(float((one - two).square().mean()) for one, two in pairs))
    assert distances[0] < 0.9 * distances[1]


def test_factors_are_trained_as_the_chain_rule_says(tmp_path: Any) -> None:
    """Beside autograd through W + B A, for linear layers and convolutions; then as a LoRA."""
    pipe = make_pipeline()
    model = Model(pipe)
    settings = HardeningSettings(weights="mid_block.*", rank=2, rate=1e-3)
    latents, text = random(1, 2, 4, 16, 16), texts(pipe, ["a cat", "a dog"])
    names = ("mid_block.attentions.0.proj_in.weight", "mid_block.resnets.0.conv1.weight")
    with trained(model, settings) as weights:
        assert all(name.endswith((".weight.A", ".weight.B")) for name in weights.parameters)
        guess = predicted(pipe, latents, torch.tensor(300), text)
        assert torch.equal(guess, predicted(make_pipeline(), latents, torch.tensor(300), text))
        for name, value in weights.parameters.items():
            if name.endswith(".B"):
                value.copy_(0.1 * random(len(name), *value.shape))
        weights.write()
        guess = predicted(pipe, latents, torch.tensor(300), text)
        weights.differentiate(guess.square().mean())
        gradients = {name: value.grad for name, value in weights.parameters.items()}
        other = make_pipeline()
        for name in names:
            down, up = (
                weights.parameters[f"{name}.{side}"].clone().requires_grad_() for side in "AB"
            )
            path, _, _ = name.rpartition(".")
            layer = other.unet.get_submodule(path)
            shape = layer.weight.shape
            layer._parameters["weight"] = layer.weight + (up @ down).view(shape)
            for each, difference in weights.edit().differences.items():
                if each != name:
                    other.unet.get_parameter(each).data += whole(difference)
            same = predicted(other, latents, torch.tensor(300), text)
            assert torch.allclose(same, guess, atol=1e-5)
            expected = torch.autograd.grad(same.square().mean(), [down, up])
            for side, gradient in zip("AB", expected, strict=True):
                found = gradients[f"{name}.{side}"]
                assert found is not None
                assert torch.allclose(found, gradient, atol=1e-6)
            other = make_pipeline()
        edit = weights.edit()
        kept = {name: value.clone() for name, value in weights.parameters.items()}
        for value in weights.parameters.values():
            value.zero_()
    assert {name for name in edit.differences if name.endswith("bias")} == set()
    for name in names:
        factors = edit.differences[name]
        assert isinstance(factors, LowRank)
        assert torch.equal(factors.up, kept[f"{name}.B"])
        assert torch.equal(factors.down.flatten(1), kept[f"{name}.A"])
    files = export_lora(model, EditFile.of(model, edit), tmp_path / "lora")
    assert len(files) == 2
    assert all(verify(file, model).passed for file in files)
    tensors = load_file(files[0])
    tensors["unet.mid_block.resnets.0.conv1.lora_B.weight"][1] *= 1.01
    with safe_open(files[0], "pt") as handle:
        metadata = handle.metadata()
    save_file(tensors, tmp_path / "lora" / "damaged.safetensors", metadata)
    (change,) = verify(tmp_path / "lora" / "damaged.safetensors", model).unexpected
    assert (change.key, change.rows) == ("mid_block.resnets.0.conv1", tuple(range(16)))
    fresh = make_pipeline()
    fresh.load_lora_weights(str(tmp_path / "lora"))
    assert torch.allclose(predicted(fresh, latents, torch.tensor(300), text), guess, atol=1e-4)


def test_a_lora_of_layers_of_real_size(tmp_path: Path) -> None:
    """Those of the first level of Stable Diffusion 1: no file is larger than the factors."""
    pipe = make_pipeline()
    torch.manual_seed(0)
    pipe.register_modules(
        unet=UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320,),
            layers_per_block=1,
            cross_attention_dim=768,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
        )
    )
    model = Model(pipe)
    with trained(model, HardeningSettings(rank=8)) as weights:
        for number, (name, value) in enumerate(weights.parameters.items()):
            if name.endswith(".B"):
                value.copy_(0.01 * random(number, *value.shape))
        edit = weights.edit()
        parameters = sum(value.numel() for value in weights.parameters.values())
    EditFile.of(model, edit).save(tmp_path / "edit.json")
    file = EditFile.load(tmp_path / "edit.json")
    assert file.edit == edit
    files = export_lora(model, file, tmp_path / "lora")
    assert len(files) == 2
    assert verify(files[1], model).passed
    every = [*files, tmp_path / "edit.json", tmp_path / edit.file_name]
    sizes = [path.stat().st_size for path in every]
    assert max(sizes) < 4 * parameters + 60_000 < 0.1 * 4 * model.pipe.unet.num_parameters()
    assert sizes[2] < 1000
    pipe.load_lora_weights(tmp_path / "lora")
    for name in ("mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"):
        layer: Any = pipe.unet.get_submodule(name)
        added = layer.get_delta_weight("default_0")
        assert torch.allclose(added, whole(edit.differences[f"{name}.weight"]), atol=1e-6)


def test_the_optimizer_goes_on_exactly() -> None:
    model = Model(make_pipeline())
    lesson, found = lesson_of(model, steps=1, weights=KEYS, rank=1), found_in(model)
    with trained(model, lesson.settings) as weights:
        optimizer = optimizer_of(weights, 1e-2, DECAY, 0, {})
        lesson.train(weights, optimizer, 1, found)
        state = {name: value.clone() for name, value in saved(weights, optimizer).items()}
        lesson.train(weights, optimizer, 2, found)
        whole = weights.edit()
    with trained(model, lesson.settings) as weights:
        optimizer = optimizer_of(weights, 1e-2, DECAY, 2, state)
        lesson.train(weights, optimizer, 2, found)
        assert weights.edit() == whole


def test_weights_are_named_by_patterns() -> None:
    model = Model(make_pipeline())
    every = layers_of(model, "all")
    assert {f"{path}.weight" for path in every} <= set(model.denoiser.state_dict())
    assert len(every) == len(
        {name.rpartition(".")[0] for name, _ in model.denoiser.named_parameters()}
    )
    cross = layers_of(model, "cross-attention")
    assert cross == [path for path in every if ".attn2." in path]
    assert cross[0].endswith("attn2.to_q")
    assert layers_of(model, "mid_block.*") == [path for path in every if path.startswith("mid_")]
    with pytest.raises(MitigationError, match="no layer of such a path"):
        layers_of(model, "middle.*")


def test_a_rank_that_saves_nothing_is_refused() -> None:
    model = Model(make_pipeline())
    settings = HardeningSettings(weights=KEYS, rank=100)
    with (
        pytest.raises(MitigationError, match="rank 100: none of the layers"),
        trained(model, settings),
    ):
        pass


def test_half_precision_is_refused() -> None:
    model = Model(make_pipeline().to(torch.bfloat16))
    with (
        pytest.raises(MitigationError, match=r"harden: .* is loaded in torch\.bfloat16"),
        trained(model, HardeningSettings()),
    ):
        pass
