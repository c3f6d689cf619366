"""Attacks on tiny random pipelines: what they move, and that they can be stopped anywhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from architectures import make
from colours import noise
from unmemorize import (
    AuditError,
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    Erased,
    GenerationSettings,
    Model,
    NeuronEdit,
    Neurons,
    Reread,
    bake,
)
from unmemorize.audit import (
    Attack,
    AttackSettings,
    Bench,
    State,
    Target,
    Trial,
    _objectives,
    companions_of,
)
from unmemorize.audit._attack import make_attacks
from unmemorize.audit._drawing import drawn, drawn_all
from unmemorize.audit._hard_tokens import HardTokens, _projected
from unmemorize.audit._inversion import Inversion
from unmemorize.audit._objectives import IMAGELESS
from unmemorize.audit._original_prompt import OriginalPrompt
from unmemorize.audit._relearning import Relearning
from unmemorize.audit._rephrasing import Rephrasing
from unmemorize.audit._soft_tokens import SoftTokens
from unmemorize.generation import Edit, EditFile, PrunedEdit

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
CAPTIONS = ("a dog", "a house", "a tree by the sea")
SETTINGS = GenerationSettings(steps=2, guidance=3.0, batch=2)
TARGET = Target(key="target", prompt="a b c", images=(noise(1, (32, 32)),))
OTHERS = [
    Target(key=prompt, prompt=prompt, images=(noise(seed, (32, 32)),))
    for prompt, seed in (("x y", 2), ("v w", 3))
]
RESUMED: list[Attack] = [
    SoftTokens(),
    SoftTokens(positions=2, radius=0.5),
    SoftTokens(objective=IMAGELESS),
    HardTokens(count=2),
    Relearning(rank=2),
]


def bench_of(model: Model, **change: Any) -> Bench:
    edit = NeuronEdit(Neurons({LAYER: [0, 1, 2]}))
    bench = Bench(model, edit, CAPTIONS, batch=2, companions=companions_of(OTHERS))
    return replace(bench, **change)


def trial_of(attack: Attack, start: str = "prompt", **change: object) -> Trial:
    trial = Trial(target=TARGET, start=start, seed=0, attack=attack.name, fingerprint="f")  # type: ignore[arg-type]
    return replace(trial, **change)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def short_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks without an image draw theirs in few steps."""
    monkeypatch.setattr(_objectives, "_STEPS", 2)


@pytest.fixture(name="bench", scope="module")
def bench_fixture() -> Bench:
    return bench_of(Model(make("Stable Diffusion")))


def climbed(attack: Attack, bench: Bench, trial: Trial, *steps: int) -> State:
    state = attack.begin(bench, trial)
    for step in steps:
        state = attack.advance(bench, trial, state, step)
    return state


@pytest.mark.parametrize("attack", RESUMED, ids=lambda attack: attack.name)
def test_an_attack_that_is_stopped_goes_on_exactly(attack: Attack, bench: Bench) -> None:
    trial = trial_of(attack)
    whole = climbed(attack, bench, trial, 3)
    torch.manual_seed(99)  # nothing may come from the global generator
    in_parts = climbed(attack, bench_of(bench.model), trial, 1, 3)
    assert whole.tensors.keys() == in_parts.tensors.keys()
    for name, value in whole.tensors.items():
        assert torch.equal(value, in_parts.tensors[name]), name
    other = climbed(attack, bench, replace(trial, seed=1), 3)
    assert any(not torch.equal(value, other.tensors[name]) for name, value in whole.tensors.items())


@pytest.mark.parametrize("attack", RESUMED[:3], ids=lambda attack: attack.name)
def test_attacks_side_by_side_find_what_each_finds_alone(attack: SoftTokens, bench: Bench) -> None:
    other = Target(key="other", prompt="d e", images=(noise(5, (32, 32)), noise(6, (32, 32))))
    trials = [
        trial_of(attack),
        trial_of(attack, target=other),
        trial_of(attack, "other", target=other, seed=2),
    ]
    begun = [attack.begin(bench, trial) for trial in trials]
    middle = attack.advance_all(bench, trials, begun, 2)
    together = attack.advance_all(bench, trials, middle, 3)
    for trial, start, found in zip(trials, begun, together, strict=True):
        alone = climbed(attack, bench, trial, 3)
        assert found.step == 3
        assert found.tensors.keys() == alone.tensors.keys()
        moved = (found.tensors["value"] - start.tensors["value"]).abs().max()
        assert moved > 1e-2
        for name, value in alone.tensors.items():
            torch.testing.assert_close(found.tensors[name], value, rtol=1e-3, atol=1e-4)


def test_images_of_several_embeddings_are_drawn_in_common_batches(bench: Bench) -> None:
    attack = SoftTokens()
    others = [replace(TARGET, key=prompt, prompt=prompt) for prompt in ("d e", "f")]
    trials = [trial_of(attack, "noise", target=target) for target in (TARGET, *others, TARGET)]
    trials[3] = replace(trials[3], seed=1)
    candidates = [attack.candidate(bench, each, attack.begin(bench, each)) for each in trials]
    seeds = [[4, 5], [6], [4], [7, 8]]
    many = drawn_all(bench, candidates, seeds, replace(SETTINGS, batch=4))
    for candidate, some, images in zip(candidates, seeds, many, strict=True):
        alone = drawn(bench, candidate, some, SETTINGS)
        assert len(images) == len(some)
        for one, two in zip(images, alone, strict=True):
            difference = np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16))
            assert difference.max() <= 1
    flat = [np.asarray(image) for images in many for image in images]
    assert all(not np.array_equal(one, two) for one, two in pairwise(flat))


@pytest.mark.parametrize("attack", RESUMED[:3], ids=lambda attack: attack.name)
def test_a_rate_of_zero_leaves_the_embedding_where_it_was(attack: SoftTokens, bench: Bench) -> None:
    frozen = replace(attack, rate=0.0)
    trial = trial_of(frozen)
    images = []
    for state in (frozen.begin(bench, trial), climbed(frozen, bench, trial, 2)):
        assert torch.equal(state.tensors["value"], bench.embedding(TARGET.prompt))
        images.append(drawn(bench, frozen.candidate(bench, trial, state), [4], SETTINGS)[0])
    first, second = map(np.asarray, images)
    assert np.array_equal(first, second)


def test_after_no_step_the_embedding_draws_what_the_caption_draws(bench: Bench) -> None:
    attack, caption = SoftTokens(), OriginalPrompt()
    free = attack.candidate(bench, trial_of(attack), attack.begin(bench, trial_of(attack)))
    plain = caption.candidate(bench, trial_of(caption), State())
    for one, two in zip(
        drawn(bench, free, [4, 5], SETTINGS), drawn(bench, plain, [4, 5], SETTINGS), strict=True
    ):
        assert np.array_equal(np.asarray(one), np.asarray(two))


def test_attacks_see_the_edited_model(bench: Bench) -> None:
    attack = SoftTokens()
    trial = trial_of(attack)
    edited = climbed(attack, bench, trial, 2)
    unedited = climbed(attack, replace(bench, edit=None), trial, 2)
    assert not torch.equal(edited.tensors["value"], unedited.tensors["value"])
    assert not bench.model.denoiser.get_submodule(LAYER)._forward_hooks


def test_free_embeddings_lower_the_loss_on_the_image(bench: Bench) -> None:
    attack = SoftTokens()
    trial = trial_of(attack)
    found = climbed(attack, bench, trial, 8).tensors["value"]
    generator = torch.Generator().manual_seed(0)
    clean = bench.latents(TARGET.key, TARGET.images).expand(6, -1, -1, -1)
    dust = torch.randn(clean.shape, generator=generator)
    levels = torch.linspace(0.1, 0.9, 6)
    losses = [
        float(
            bench.denoising_loss(
                clean, dust, levels, bench.with_embedding(TARGET.prompt, embedding, 6)
            ).mean()
        )
        for embedding in (bench.embedding(TARGET.prompt), found)
    ]
    assert losses[1] < losses[0]


def test_some_positions_are_free_within_a_ball(bench: Bench) -> None:
    attack = SoftTokens(positions=2, radius=0.05)
    state = climbed(attack, bench, trial_of(attack), 4)
    change = state.tensors["value"] - state.tensors["start"]
    moved = change.norm(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [1, 2]  # the first position is that of all texts
    assert float(change.norm()) == pytest.approx(0.05 * bench.scale, rel=1e-4)


def test_starts_differ_and_follow_from_the_trial(bench: Bench) -> None:
    attack = SoftTokens()
    starts = {}
    for start in ("prompt", "noise", "other"):
        trial = trial_of(attack, start)
        starts[start] = attack.begin(bench, trial).tensors["value"]
        assert torch.equal(starts[start], attack.begin(bench, trial).tensors["value"])
    assert abs(float(starts["noise"].std()) - 1) < 0.2
    assert any(torch.equal(starts["other"], bench.embedding(text)) for text in CAPTIONS)
    neutral = replace(TARGET, prompt="")
    unknown = attack.begin(bench, trial_of(attack, "prompt", target=neutral)).tensors["value"]
    assert any(torch.equal(unknown, bench.embedding(text)) for text in CAPTIONS)


def test_a_rate_of_zero_leaves_words_where_they_were(bench: Bench) -> None:
    """Also by the rounding of their projection, which would grow from step to step."""
    frozen = HardTokens(count=2, rate=0.0)
    trial = trial_of(frozen)
    begun, later = frozen.begin(bench, trial), climbed(frozen, bench, trial, 1, 3)
    assert later.step == 3
    assert torch.equal(begun.tensors["value"], later.tensors["value"])


def test_hard_tokens_stand_in_front_of_the_caption(bench: Bench) -> None:
    attack = HardTokens(count=2)
    trial = trial_of(attack)
    state = climbed(attack, bench, trial, 3)
    assert torch.allclose(state.tensors["value"].sum(1), torch.ones(2), atol=1e-5)
    numbers = state.tensors["value"].argmax(1).tolist()
    candidate = attack.candidate(bench, trial, state)
    assert candidate.words.endswith("a b c")
    pipe = bench.model.pipe
    caption = pipe.tokenizer("a b c", padding="max_length", max_length=16).input_ids
    ids = torch.tensor([[caption[0], *numbers, *caption[1:-2]]])
    assert candidate.embedding is not None
    typed = pipe.text_encoder(ids)[0][0]
    assert torch.allclose(candidate.embedding, typed, atol=1e-5)
    assert not set(numbers) & set(pipe.tokenizer.all_special_ids)


def test_distributions_are_projected_onto_the_simplex() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn((3, 6), generator=generator)
    allowed = torch.tensor([True, True, False, True, True, True])
    projected = _projected(value, allowed)
    assert torch.equal(projected[:, 2], torch.zeros(3))
    for row, wanted in zip(projected, value, strict=True):
        low, high = -10.0, 10.0  # bisection, as published
        for _ in range(60):
            theta = (low + high) / 2
            total = (wanted[allowed] - theta).clamp_min(0).sum()
            low, high = (theta, high) if total > 1 else (low, theta)
        assert torch.allclose(row[allowed], (wanted[allowed] - low).clamp_min(0), atol=1e-5)


def test_variants_change_words_and_settings(bench: Bench) -> None:
    attack = Rephrasing()
    target = replace(TARGET, prompt="a b c d", paraphrases=("d c b a",))
    trial = trial_of(attack, target=target)
    candidates = [
        attack.candidate(bench, trial, attack.advance(bench, trial, State(), step))
        for step in attack.ladder((0, 5))
    ]
    words = [candidate.words.split() for candidate in candidates if candidate.words]
    assert candidates[0].words == "d c b a"
    assert [len(text) for text in words] == [4, 4, 4, 3, 2, 5, 8]
    changed = [candidate.settings(SETTINGS) for candidate in candidates[7:]]
    assert [settings.guidance for settings in changed] == [1.0, 6.0, 3.0, 3.0, 3.0]
    assert [settings.steps for settings in changed] == [2, 2, 1, 4, 2]
    usual, other = candidates[0], candidates[-1]
    assert usual.scheduler() is None
    assert type(other.scheduler()).__name__ == "PNDMScheduler"
    before = bench.model.pipe.scheduler
    assert len(drawn(bench, other, [1], SETTINGS)) == 1
    assert bench.model.pipe.scheduler is before


def test_without_an_image_the_attack_follows_the_unedited_model(bench: Bench) -> None:
    attack = SoftTokens(objective=IMAGELESS)
    trial = trial_of(attack)
    other = trial_of(attack, target=replace(TARGET, images=(noise(8, (32, 32)),)))
    found = climbed(attack, bench, trial, 2)
    assert torch.equal(found.tensors["value"], climbed(attack, bench, other, 2).tensors["value"])
    # an unedited model already predicts what it is to predict, so nothing moves
    same = climbed(attack, replace(bench, edit=None), trial, 2)
    assert torch.allclose(same.tensors["value"], bench.embedding(TARGET.prompt), atol=0.21)
    assert float((same.tensors["value"] - same.tensors["start"]).norm()) < float(
        (found.tensors["value"] - found.tensors["start"]).norm()
    )
    with pytest.raises(AuditError, match="needs the caption"):
        attack.begin(bench, trial_of(attack, target=replace(TARGET, prompt="")))


@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion 2", "Stable Diffusion 3"])
def test_the_ceiling_finds_a_noise_for_any_image(name: str) -> None:
    model = Model(make(name))
    if name != "Stable Diffusion 3":  # latents of about the size that a trained autoencoder gives
        model.pipe.vae.register_to_config(scaling_factor=3.0)
    bench = replace(bench_of(model), edit=None)
    attack = Inversion(iterations=4, timesteps=5)
    for seed in (1, 2):
        target = Target(key=str(seed), prompt="a", images=(noise(seed, (32, 32)),))
        trial = trial_of(attack, target=target)
        state = climbed(attack, bench, trial, 4)
        found = state.tensors["noise"][None]
        path = [*model.timesteps(5).double().tolist(), -1.0]
        latents = found
        for here, there in pairwise(path):  # sample by the same path, from noise to image
            times = torch.tensor([here])
            prediction = model.predict(latents, times, model.encode([""]))
            latents = bench.noising.moved(latents, prediction, times, torch.tensor([there]))
        wanted = bench.latents(target.key, target.images)
        cosine = F.cosine_similarity(latents.flatten(), wanted.flatten(), dim=0)
        assert float(cosine) > 0.9  # in five steps of a random network
    assert len(drawn(bench, attack.candidate(bench, trial, state), [1, 2], SETTINGS)) == 1


def test_relearning_trains_on_others_and_leaves_the_pipeline_as_it_was() -> None:
    model = Model(make("Stable Diffusion"))
    bench = bench_of(model)
    attack = Relearning(rank=2)
    attack.check(bench)
    trial = trial_of(attack)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    attributes, layer = set(vars(model.denoiser)), model.denoiser.get_submodule(LAYER)
    first = attack.begin(bench, trial)
    later = attack.advance(bench, trial, first, 2)
    plain = drawn(bench, OriginalPrompt().candidate(bench, trial, State()), [3], SETTINGS)
    unchanged = drawn(bench, attack.candidate(bench, trial, first), [3], SETTINGS)
    changed = drawn(bench, attack.candidate(bench, trial, later), [3], SETTINGS)
    assert np.array_equal(np.asarray(plain[0]), np.asarray(unchanged[0]))
    assert not np.array_equal(np.asarray(plain[0]), np.asarray(changed[0]))
    after = model.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert set(vars(model.denoiser)) == attributes
    assert model.denoiser.get_submodule(LAYER) is layer
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())
    model.denoiser.peft_config = {"mine": object()}  # type: ignore[assignment]
    with pytest.raises(AuditError, match="LoRAs loaded"):
        attack.check(bench)
    del model.denoiser.peft_config
    with pytest.raises(AuditError, match="at least 2 prompts"):
        attack.check(replace(bench, companions=()))


@pytest.mark.parametrize(
    "edit",
    [
        NeuronEdit(Neurons({LAYER: [0, 1, 2]}), scale=-1.0),
        ClosedFormEdit((Erased("a b c", weight=3.0),), CAPTIONS),
        ClosedFormNeuronEdit((Reread("a b c", Neurons({LAYER: range(9)}), reach=2.0),), CAPTIONS),
        PrunedEdit({LAYER: tuple(range(0, 200, 3))}),
    ],
    ids=lambda edit: edit.kind,
)
def test_relearning_attacks_the_model_that_is_exported(edit: Edit, tmp_path: Path) -> None:
    """A LoRA above hooks learns what it learns on edited weights, and computes the same."""
    make("Stable Diffusion").save_pretrained(tmp_path / "base")
    model = Model.load(str(tmp_path / "base"), device="cpu")
    bake(model, EditFile.of(model, edit), tmp_path / "edited")
    exported = Model.load(str(tmp_path / "edited"), device="cpu")
    attack, learned, predicted = Relearning(rank=2, rate=0.05), [], []
    for bench in (
        bench_of(model, edit=edit),
        bench_of(exported, edit=None),
        bench_of(model, edit=None),
    ):
        trial = trial_of(attack)
        state = climbed(attack, bench, trial, 3)
        learned.append(state.tensors)
        candidate = attack.candidate(bench, trial, state)
        assert candidate.edits
        with candidate.around():
            text = bench.model.encode([candidate.text])
            latents = bench.model.draw_latents(1, 0)
            predicted.append(bench.model.predict(latents, bench.model.timesteps(50)[1], text))
        drawn(bench, candidate, [3], SETTINGS)  # the edit is there once, and taken back
    hooked, baked, other = predicted
    assert float((hooked - baked).norm()) < 0.01 * float((hooked - other).norm())
    for name, tensor in learned[0].items():
        torch.testing.assert_close(tensor, learned[1][name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("attack", [SoftTokens(), Relearning(rank=2)], ids=lambda it: it.name)
def test_gradients_do_not_vanish_in_float16(attack: Attack) -> None:
    found = []
    for dtype in (torch.float32, torch.float16):
        model = Model(make("Stable Diffusion").to(dtype))
        with torch.no_grad():  # of a prediction that hardly moves, as in a model of full size
            model.pipe.unet.conv_out.weight.mul_(2.0**-8)
        moments = climbed(attack, bench_of(model), trial_of(attack), 1).tensors
        found.append(
            torch.cat([moments[name].flatten() for name in moments if name.endswith("exp_avg")])
        )
    exact, half = found
    assert float((half - exact).norm()) < 0.01 * float(exact.norm())


def test_relearning_never_trains_on_the_attacked_image() -> None:
    """Under whatever caption it is, and whichever image of a template."""
    attack, model = Relearning(rank=2), Model(make("Stable Diffusion"))
    (image,), second = TARGET.images, noise(9, (32, 32))
    template = replace(TARGET, images=(image, second))
    other = replace(OTHERS[0], prompt="another caption")
    for target, same in (
        (TARGET, replace(other, images=(image,))),
        (template, replace(other, images=(second,))),
        (replace(TARGET, others=(second,)), replace(other, images=(second,))),
        (TARGET, replace(other, others=(image,))),
    ):
        learned = []
        for others in (OTHERS[1:], [same, *OTHERS[1:], target]):
            bench = bench_of(model, companions=companions_of(others))
            learned.append(climbed(attack, bench, trial_of(attack, target=target), 1).tensors)
        assert all(torch.equal(value, learned[1][name]) for name, value in learned[0].items())
        with pytest.raises(AuditError, match="at least 2 prompts must show different ones"):
            attack.check(bench_of(model, companions=companions_of([target, same])))


def test_relearning_in_float16_ends_like_in_float32() -> None:
    attack, ends = Relearning(rank=2), []
    for dtype in (torch.float32, torch.float16):
        bench = bench_of(Model(make("Stable Diffusion").to(dtype)))
        state = climbed(attack, bench, trial_of(attack), 3)
        weights = [name for name in state.tensors if "lora_B" in name and "exp_avg" not in name]
        ends.append(torch.cat([state.tensors[name].flatten() for name in weights]))
    assert float((ends[1] - ends[0]).norm()) < 0.1 * float(ends[0].norm())


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "Stable Diffusion 3", "Flux"])
def test_other_pipelines_draw_from_an_embedding(name: str) -> None:
    bench = replace(bench_of(Model(make(name))), edit=None)
    attack = SoftTokens()
    trial = trial_of(attack)
    attack.check(bench)
    guidance = 1.0 if name == "Flux" else 3.0
    settings = replace(SETTINGS, guidance=guidance)
    pictures = []
    for steps in ((), (1,)):
        candidate = attack.candidate(bench, trial, climbed(attack, bench, trial, *steps))
        pictures.append(np.asarray(drawn(bench, candidate, [1], settings)[0]))
    plain = OriginalPrompt().candidate(bench, trial, State())
    caption = np.asarray(drawn(bench, plain, [1], settings)[0])
    assert np.array_equal(pictures[0], caption)
    assert not np.array_equal(pictures[1], caption)
    assert bench.fixed  # pooled embeddings stay those of the caption


@pytest.mark.parametrize(
    ("name", "attack", "reason"),
    [
        ("Stable Diffusion XL", HardTokens(), "one output of one text encoder"),
        ("HunyuanDiT", SoftTokens(), "several text streams"),
        ("Qwen-Image", SoftTokens(), "at their own lengths"),
    ],
)
def test_attacks_that_are_not_possible_are_refused(name: str, attack: Attack, reason: str) -> None:
    with pytest.raises(AuditError, match=reason):
        attack.check(replace(bench_of(Model(make(name))), edit=None))


def test_levels_are_made_by_name() -> None:
    settings = AttackSettings(positions=(1, 4), radii=(0.5, None), rate=0.05)
    names = [attack.name for attack in make_attacks(("L0", "L3", "L4-imageless"), settings)]
    assert names == [
        "L0",
        *("L3-m1-r0.5", "L3-m1-rinf", "L3-m4-r0.5", "L3-m4-rinf"),
        "L4-imageless",
    ]
    every = [attack.name for attack in make_attacks(("L3", "L4"), AttackSettings())]
    ladder = [(m, r) for m in ("1", "4", "16", "all") for r in ("0.25", "0.5", "1", "2", "inf")]
    assert every == [*(f"L3-m{m}-r{r}" for m, r in ladder[:-1]), "L4"]
    (free,) = make_attacks(("L4",), settings)
    assert isinstance(free, SoftTokens)
    assert free.rate == 0.05
    assert free.trials(("prompt", "noise"), 2) == [
        ("prompt", 0),
        ("prompt", 1),
        ("noise", 0),
        ("noise", 1),
    ]
    assert SoftTokens(positions=1).trials(("prompt", "noise"), 1) == [("prompt", 0)]
    for change in ({"positions": (0,)}, {"radii": (-1.0,)}, {"rate": -0.1}):
        with pytest.raises(AuditError, match=next(iter(change))):
            replace(settings, **change)
    with pytest.raises(AuditError, match="L9"):
        make_attacks(("L9",), settings)
