"""The training of a denoiser: what it sees, what it moves, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import CpuOffload, add_hook_to_module
from peft import LoraConfig
from torch import Tensor

from architectures import ARCHITECTURES, make
from unmemorize._errors import DivergedError, EditError, RunError
from unmemorize.generation import (
    Drawing,
    Erased,
    GenerationSettings,
    LowRank,
    WeightEdit,
    drawn_latents,
    has_closed_form,
)
from unmemorize.methods import (
    LATENTS,
    _fine_tuning,
    _latents,
    fine_tuned_denoiser,
    why_not_fine_tuned,
)
from unmemorize.methods._latents import drawn_in_batches
from unmemorize.methods._unfinished import Unfinished, steps_done
from unmemorize.pipelines import Model, Noising

ERASE = (Erased("a red cat", 1.0, "a cat"), Erased("a blue dog", 3.0, "a dog"))
KEEP = ("a car", "a boat", "a plane")
SETTINGS = GenerationSettings(steps=3, guidance=2.0, batch=6)


@pytest.fixture
def model() -> Model:
    return Model(make("Stable Diffusion"))


@pytest.fixture(scope="module")
def undisturbed() -> WeightEdit:
    """The edit of a training on a model of its own, from beginning to end."""
    return fine_tuned_denoiser(Model(make("Stable Diffusion")), ERASE, KEEP, SETTINGS)


def errors(model: Model, asked: Sequence[str], wanted: Tensor, latents: Tensor) -> Tensor:
    times = torch.full((len(asked),), 500)
    found = model.predict(latents, times, model.encode(list(asked)))
    return (found - wanted).square().mean((1, 2, 3))


def test_captions_go_to_their_guides_and_the_model_stays_as_it_is(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fine_tuning, "STEPS", 20)
    monkeypatch.setattr(_fine_tuning, "_TOGETHER", 20)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    required = {name: value.requires_grad for name, value in model.denoiser.named_parameters()}
    latents = model.draw_latents(2, 5)
    captions, guides = [each.caption for each in ERASE], [each.guide for each in ERASE]
    times = torch.full((2,), 500)
    wanted = model.predict(latents, times, model.encode(guides))
    edit = fine_tuned_denoiser(model, ERASE, KEEP, replace(SETTINGS, batch=30))
    apart = errors(model, captions, wanted, latents)
    with edit.applied(model, [True]):
        left = errors(model, captions, wanted, latents)
    assert bool((left < apart).all())
    assert edit.source == "fine-tuning"
    assert all(name in dict(model.denoiser.named_parameters()) for name in edit.differences)
    assert all(isinstance(each, LowRank) for each in edit.differences.values())
    after = model.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert required == {n: value.requires_grad for n, value in model.denoiser.named_parameters()}
    assert all(value.grad is None for value in model.denoiser.parameters())


def test_the_same_call_makes_the_same_edit(model: Model, undisturbed: WeightEdit) -> None:
    told: list[tuple[int, int | None]] = []
    edit = fine_tuned_denoiser(
        model, ERASE, KEEP, SETTINGS, lambda done, total: told.append((done, total))
    )
    assert edit == undisturbed
    images = 2 * 2 * len(ERASE) + len(KEEP)
    assert told[-1] == (images + 4, images + 4)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    ("killed", "again"), [(6, [11, 12, 13, 14, 15]), (12, [12, 13, 14, 15]), (14, [14, 15])]
)
def test_a_killed_training_goes_on_and_makes_the_same_edit(
    model: Model, undisturbed: WeightEdit, tmp_path: Path, killed: int, again: list[int]
) -> None:
    """11 images are drawn, then 4 steps taken; both are kept, 6 images and 2 steps at a time."""
    folder = tmp_path / "kept"

    def kill(done: int, _total: int | None) -> None:
        if done == killed:
            raise KeyboardInterrupt

    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        fine_tuned_denoiser(model, ERASE, KEEP, SETTINGS, kill, folder)
    after = model.denoiser.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    told: list[int] = []
    edit = fine_tuned_denoiser(
        model, ERASE, KEEP, SETTINGS, lambda done, _: told.append(done), folder
    )
    assert edit == undisturbed
    assert told == again


def test_images_of_another_training_serve_where_they_are_of_the_same_captions(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (replace(ERASE[0], weight=3.0), ERASE[1])
    guides = (replace(ERASE[0], guide="a dog"), ERASE[1])
    fewer = guides[:1]
    expected = [
        fine_tuned_denoiser(model, asked, KEEP, SETTINGS) for asked in (weights, guides, fewer)
    ]
    fine_tuned_denoiser(model, ERASE, KEEP, SETTINGS, folder=tmp_path / "first")
    for name in ("second", "third", "fourth"):
        (tmp_path / name).mkdir()
        (tmp_path / name / LATENTS).hardlink_to(tmp_path / "first" / LATENTS)
    drawn: list[int] = []

    def counted(model: Model, texts: Sequence[str], *others: Any) -> Iterator[Tensor]:
        drawn.append(len(texts))
        return drawn_in_batches(model, texts, *others)

    monkeypatch.setattr(_fine_tuning, "drawn_in_batches", counted)
    found = [
        fine_tuned_denoiser(model, asked, KEEP, SETTINGS, folder=tmp_path / name)
        for asked, name in ((weights, "second"), (guides, "third"), (fewer, "fourth"))
    ]
    assert found[0] == expected[0]
    assert drawn == [0, 2, 5]  # of one other guide; all that have moved up
    for edit, other in zip(found[1:], expected[1:], strict=True):  # drawn in other batches
        assert torch.allclose(change_of(edit), change_of(other), atol=1e-5)


def change_of(edit: WeightEdit) -> Tensor:
    """All that is added to weights, as one row."""
    factors = [each for each in edit.differences.values() if isinstance(each, LowRank)]
    return torch.cat([each.product().flatten() for each in factors])


def test_a_damaged_file_of_a_training_is_named(model: Model, tmp_path: Path) -> None:
    fine_tuned_denoiser(model, ERASE, KEEP, SETTINGS, folder=tmp_path)
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunError, match=r"state\.safetensors: the file of an unfinished training"):
        fine_tuned_denoiser(model, ERASE, KEEP, SETTINGS, folder=tmp_path)


def test_a_training_that_diverges_is_named_and_keeps_what_was_finite(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state was kept, and then called damaged."""
    monkeypatch.setattr(_fine_tuning, "_RATE", 1e30)
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"the training diverges before step \d of 4"):
            fine_tuned_denoiser(model, ERASE, KEEP, SETTINGS, folder=tmp_path)
        assert steps_done(tmp_path).steps < 4


def test_a_step_asks_for_captions_and_wants_what_the_unedited_model_says_of_guides(
    model: Model,
) -> None:
    """The loss is computed here from the formula, with the noise of the step."""
    lesson = _fine_tuning._Lesson.drawn(
        model, ERASE, KEEP, SETTINGS, lambda *_: None, Unfinished(None)
    )
    assert lesson.forgotten.shape == (2, 4, *model.latent_shape)
    batch = lesson.batch(torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    own = torch.randint(2, (4,), generator=generator).tolist()
    image = torch.randint(4, (4,), generator=generator).tolist()
    ordinary = torch.randint(3, (3,), generator=generator).tolist()
    empty = (torch.rand(3, generator=generator, dtype=torch.float32) < 0.1).tolist()
    levels = torch.rand(7, generator=generator, dtype=torch.float32)
    noise = torch.randn((7, *model.latent_shape), generator=generator, dtype=torch.float32)
    noising = Noising(model)
    expected = 0.0
    for row in range(7):
        if row < 4:
            erased = ERASE[own[row]]
            clean, share = lesson.forgotten[own[row], image[row]], erased.weight / 4
            asked, guide = erased.caption, erased.guide
        else:
            place = ordinary[row - 4]
            clean, share = lesson.kept[place], 4 / 3
            asked = guide = "" if empty[row - 4] else KEEP[place]
        level = levels[[row]]
        noisy = noising.noisy(clean[None], noise[[row]], level)
        said = [
            model.predict(noisy.latents, noisy.timesteps, model.encode([text]))
            for text in (asked, guide)
        ]
        weight = 0.25 * float(torch.exp(2.5 * level))
        expected += share * weight * float((said[0] - said[1]).square().mean())
    with torch.no_grad():
        parts = [float(part) for part in batch.losses(model, 3)]
    assert len(parts) == 3
    assert sum(parts) == pytest.approx(expected, rel=1e-3)


def test_images_are_of_guides_and_of_captions_and_one_of_each_ordinary_caption(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    usual = drawn_latents

    def noted(model: Model, drawing: Drawing) -> Tensor:
        drawn.extend(drawing.prompts)
        assert (drawing.steps, drawing.guidance) == (3, 2.0)
        assert len(drawing.prompts) <= 6
        return usual(model, drawing)

    monkeypatch.setattr(_latents, "drawn_latents", noted)
    lesson = _fine_tuning._Lesson.drawn(
        model, ERASE, KEEP, SETTINGS, lambda *_: None, Unfinished(None)
    )
    assert drawn == ["a cat", "a red cat", "a dog", "a blue dog"] * 2 + list(KEEP)
    noise = model.draw_latents(len(drawn), 13)
    with torch.no_grad():
        alone = usual(model, Drawing(("a blue dog",), noise[[7]], (True,), 3, 2.0))
    assert torch.allclose(lesson.forgotten[1, 3], alone[0].cpu(), atol=1e-4)


def test_what_a_step_wants_does_not_move_with_the_training(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of later steps are made with the unedited weights, too."""
    fresh: list[Tensor] = []
    usual = _fine_tuning._Lesson.batch

    def noted(lesson: _fine_tuning._Lesson, generator: torch.Generator) -> _fine_tuning._Batch:
        batch = usual(lesson, generator)
        fresh.append(batch.wanted)
        return batch

    monkeypatch.setattr(_fine_tuning._Lesson, "batch", noted)
    fine_tuned_denoiser(model, ERASE, KEEP, SETTINGS)
    lesson = _fine_tuning._Lesson.drawn(
        model, ERASE, KEEP, SETTINGS, lambda *_: None, Unfinished(None)
    )
    generator = torch.Generator().manual_seed(13)
    for wanted in fresh:
        with torch.no_grad():
            assert torch.equal(usual(lesson, generator).wanted, wanted)


def test_parts_of_a_loss_add_up(model: Model) -> None:
    """Passes of fewer samples give the same edit, up to rounding."""
    edits = [
        fine_tuned_denoiser(model, ERASE, KEEP, GenerationSettings(steps=3, batch=batch))
        for batch in (3, 30)
    ]
    for name, one in edits[0].differences.items():
        other = edits[1].differences[name]
        assert isinstance(one, LowRank)
        assert isinstance(other, LowRank)
        assert torch.allclose(one.product(), other.product(), atol=2e-3)


def half() -> Model:
    pipe = make("Stable Diffusion")
    pipe.unet.half()
    return Model(pipe)


def compiled() -> Model:
    pipe = make("Stable Diffusion")
    pipe.unet._compiled_call_impl = pipe.unet.forward  # as compile() leaves it
    return Model(pipe)


def with_adapter() -> Model:
    pipe = make("Stable Diffusion")
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    return Model(pipe)


def loaded_in_inference_mode() -> Model:
    with torch.inference_mode():
        return Model(make("Stable Diffusion"))


def offloaded() -> Model:
    pipe = make("Stable Diffusion")
    add_hook_to_module(pipe.unet, CpuOffload(execution_device="cpu"))
    return Model(pipe)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (half, "torch.float16 loses small training steps"),
        (compiled, "compiled"),
        (with_adapter, "LoRA"),
        (loaded_in_inference_mode, "inference mode"),
        (offloaded, "offloaded"),
        (lambda: Model(make("Flux")), "packs latents"),
        (lambda: Model(make("DeepFloyd IF")), "pixels"),
    ],
)
def test_denoisers_that_cannot_be_trained_are_refused(
    changed: Callable[[], Model], reason: str
) -> None:
    model = changed()
    assert reason in why_not_fine_tuned(model)
    with pytest.raises(EditError, match=reason):
        fine_tuned_denoiser(model, ERASE, KEEP)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_with_closed_forms_are_trained_or_say_why_not(name: str) -> None:
    model = Model(make(name))
    if not has_closed_form(model) or why_not_fine_tuned(model):
        assert name in ("DeepFloyd IF", "Flux", "Qwen-Image", "Stable Diffusion 3")
        return
    edit = fine_tuned_denoiser(model, ERASE, KEEP, SETTINGS)
    latents, time = model.draw_latents(1, 1), model.timesteps(10)[1]
    text = model.encode([ERASE[0].caption])
    before = model.predict(latents, time, text)
    with edit.applied(model, [True]):
        assert not torch.equal(model.predict(latents, time, text), before)
    assert torch.equal(model.predict(latents, time, text), before)


def test_captions_of_both_kinds_are_needed(model: Model) -> None:
    with pytest.raises(EditError, match="0 captions"):
        fine_tuned_denoiser(model, (), KEEP)
    with pytest.raises(EditError, match="0 ordinary"):
        fine_tuned_denoiser(model, ERASE, ())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_of_the_caller_changes_nothing(
    model: Model, undisturbed: WeightEdit, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    with mode():
        assert fine_tuned_denoiser(Model(model.pipe), ERASE, KEEP, SETTINGS) == undisturbed
