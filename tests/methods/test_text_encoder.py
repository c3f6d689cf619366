"""Text encoders that are trained to encode captions like others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from architectures import make
from artefacts import Saved, saved_model_fixture  # noqa: F401 -- a fixture
from unmemorize import (
    EditError,
    EditFile,
    Erased,
    ExportError,
    GenerationSettings,
    Model,
    NeuronEdit,
    Neurons,
    bake,
    export_lora,
    export_single_file,
    verify,
)
from unmemorize.export import CHECKPOINT, check_single_file, model_card
from unmemorize.generation import CombinedEdit, WeightEdit, generate_each
from unmemorize.methods import (
    _text_encoder,
    text_encoder_layers,
    trained_text_encoder,
    why_untrainable,
)
from unmemorize.pipelines import load_pipeline, text_encoders_of

CAPTION, GUIDE = "a red cat poster", "a red cat"
KEEP = ("a dog", "a house", "a tree", "two boats", "a blue car", "a hat")
OTHERS = ("a boat", "a car")
WITH_CLIP = ("Stable Diffusion", "Stable Diffusion XL")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_text_encoder, "STEPS", 40)


def encoded(model: Model, edit: WeightEdit | None, text: str) -> Tensor:
    """All that the denoiser reads of a caption, under an edit or without one."""
    if edit is None:
        found = model.encode([text])
    else:
        with edit.applied(model, [True]):
            found = model.encode([text])
    parts = [value for key, value in found.samples.items() if "time_ids" not in key]
    return torch.cat([part.flatten() for part in parts])


def images(model: Model, edit: WeightEdit | CombinedEdit | None, *texts: str) -> list[bytes]:
    settings = GenerationSettings(images=1, steps=2, guidance=3.0, batch=4)
    drawn = generate_each(model, texts, [edit] * len(texts), settings=settings)
    return [image.tobytes() for (image,) in drawn]


@pytest.mark.parametrize(
    "name", ["Stable Diffusion", pytest.param("Stable Diffusion XL", marks=pytest.mark.slow)]
)
def test_a_caption_is_encoded_like_its_guide_and_others_as_before(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_text_encoder, "STEPS", 150)
    model = Model(make(name))
    before = [value.clone() for value in model.pipe.text_encoder.parameters()]
    edit = trained_text_encoder(model, [Erased(CAPTION, 10.0, GUIDE)], KEEP)

    def distance(edit: WeightEdit | None, text: str, other: str) -> float:
        return float((encoded(model, edit, text) - encoded(model, None, other)).norm())

    assert distance(edit, CAPTION, GUIDE) < 0.5 * distance(None, CAPTION, GUIDE)
    for text in (*OTHERS, ""):
        assert distance(edit, text, text) < 0.5 * distance(None, CAPTION, GUIDE)
    after = list(model.pipe.text_encoder.parameters())
    assert all(map(torch.equal, before, after))
    assert not any(value.grad is not None for value in after)
    components = {name.partition(".")[0] for name in edit.differences}
    assert components == {part for part in model.pipe.components if part.startswith("text_enc")}
    assert trained_text_encoder(model, [Erased(CAPTION, 10.0, GUIDE)], KEEP) == edit


@pytest.mark.parametrize(
    ("name", "killed", "again"),
    [
        ("Stable Diffusion", 5, range(5, 11)),
        ("Stable Diffusion", 7, range(5, 11)),
        ("Stable Diffusion", 3, range(1, 11)),
        ("Stable Diffusion XL", 9, range(9, 11)),
    ],
)
def test_a_killed_training_goes_on_and_makes_the_same_edit(
    name: str, killed: int, again: range, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of 10 steps, 4 at a time are kept. The first encoder of SDXL has a layer without a part."""
    monkeypatch.setattr(_text_encoder, "STEPS", 10)
    monkeypatch.setattr(_text_encoder, "_TOGETHER", 4)
    model = Model(make(name))
    before = [value.clone() for value in model.pipe.text_encoder.parameters()]
    erase, folder = (
        [Erased(CAPTION, 2.0, GUIDE), Erased("a blue dog", 1.0, "a dog")],
        tmp_path / "x",
    )
    expected = trained_text_encoder(model, erase, KEEP)

    def kill(done: int, _total: int | None) -> None:
        if done == killed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained_text_encoder(model, erase, KEEP, kill, folder)
    assert all(map(torch.equal, before, model.pipe.text_encoder.parameters()))
    told: list[int] = []
    edit = trained_text_encoder(model, erase, KEEP, lambda done, _: told.append(done), folder)
    assert edit == expected
    assert told == list(again)


def test_the_weight_of_a_caption_counts() -> None:
    model = Model(make("Stable Diffusion"))
    wanted = encoded(model, None, GUIDE)
    left = []
    for weight in (0.01, 10.0):
        edit = trained_text_encoder(model, [Erased(CAPTION, weight, GUIDE)], KEEP)
        left.append(float((encoded(model, edit, CAPTION) - wanted).norm()))
    assert left[1] < left[0]


def test_weights_in_half_precision_are_trained_in_float32_and_put_back() -> None:
    model = Model(make("Stable Diffusion").to(torch.float16))
    encoder = model.pipe.text_encoder
    before = [(value.dtype, value.clone()) for value in encoder.parameters()]
    required = [value.requires_grad for value in encoder.parameters()]
    trained_text_encoder(model, [Erased(CAPTION, 1.0, GUIDE)], KEEP)
    for (dtype, old), value in zip(before, encoder.parameters(), strict=True):
        assert (value.dtype, torch.equal(value, old)) == (dtype, True)
    assert [value.requires_grad for value in encoder.parameters()] == required


@pytest.mark.parametrize(
    ("name", "reason"),
    [("Stable Diffusion 3", "no Stable Diffusion"), ("DeepFloyd IF", "not those of CLIP")],
)
def test_other_text_encoders_are_refused(name: str, reason: str) -> None:
    model = Model(make(name))
    assert reason in why_untrainable(model.pipe)
    with pytest.raises(EditError, match=reason):
        trained_text_encoder(model, [Erased(CAPTION)], KEEP)


def test_quantized_and_adapted_text_encoders_are_refused() -> None:
    peft = pytest.importorskip("peft")
    pipe = make("Stable Diffusion")
    pipe.text_encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert "a LoRA" in why_untrainable(pipe)
    pipe = make("Stable Diffusion")
    pipe.text_encoder.to("meta")
    assert "offloaded" in why_untrainable(pipe)


def test_compiled_text_encoders_are_refused_where_they_would_ignore_the_edit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(make("Stable Diffusion"))
    edit = trained_text_encoder(model, [Erased(CAPTION, 1.0, GUIDE)], KEEP)
    encoder = model.pipe.text_encoder  # as encoder.compile() leaves it
    monkeypatch.setattr(encoder, "_compiled_call_impl", encoder._call_impl)
    assert "compiled" in why_untrainable(model.pipe)
    with pytest.raises(EditError, match="compiled networks ignore edits"):
        encoded(model, edit, CAPTION)


def test_captions_that_are_encoded_like_their_guides_count_for_nothing() -> None:
    """They are not moved, and do not keep others from being trained."""
    model = Model(make("Stable Diffusion"))
    alone = trained_text_encoder(model, [Erased(CAPTION, 1.0, GUIDE)], KEEP)
    same = Erased(f"{GUIDE} ", 1.0, GUIDE)
    edit = trained_text_encoder(model, [Erased(CAPTION, 2.0, GUIDE), same], KEEP)
    wanted = encoded(model, None, GUIDE)
    left = [float((encoded(model, each, CAPTION) - wanted).norm()) for each in (edit, alone)]
    assert left[0] == pytest.approx(left[1], rel=0.05)


def test_too_few_captions_are_refused() -> None:
    model = Model(make("Stable Diffusion"))
    for erase, keep in (([], KEEP), ([Erased(CAPTION)], KEEP[:1])):
        with pytest.raises(EditError, match="at least 1 and 2"):
            trained_text_encoder(model, erase, keep)


@pytest.mark.parametrize("name", WITH_CLIP)
def test_each_export_draws_what_the_edit_draws(
    name: str, saved_model: Saved, tmp_path: Path
) -> None:
    """The edit acts on the conditional and on the empty prompt, as edited weights do."""
    pytest.importorskip("peft")
    model = saved_model(name)
    trained = trained_text_encoder(model, [Erased(CAPTION, 1.0, GUIDE)], KEEP)
    neurons = Neurons({next(iter(model.value_layers)): [1]})
    edits: list[WeightEdit | CombinedEdit] = [trained]
    edits.append(CombinedEdit((trained, NeuronEdit(neurons))))
    for number, edit in enumerate(edits):
        file, texts = EditFile.of(model, edit), (CAPTION, *OTHERS)
        expected = images(model, edit, *texts)
        assert expected != images(model, None, *texts)
        folder = bake(
            model, file, tmp_path / f"{number}" / CHECKPOINT, card=model_card(model, file)
        )
        loaded = Model(load_pipeline(str(folder), device="cpu"))
        assert images(loaded, None, *texts) == expected
        assert verify(folder, model).passed
        lora = export_lora(model, file, tmp_path / f"{number}" / "lora")
        assert verify(tmp_path / f"{number}" / "lora", model).passed
        for path in lora:  # that of diffusers, and that of other programs
            other = load_pipeline(str(model.pipe.config._name_or_path), device="cpu")
            other.load_lora_weights(path.parent, weight_name=path.name)
            near = images(Model(other), None, *texts)
            for one, two in zip(near, expected, strict=True):
                difference = [abs(a - b) for a, b in zip(one, two, strict=True)]
                assert max(difference) <= 1


@pytest.mark.parametrize("name", ["Stable Diffusion", "Stable Diffusion XL"])
def test_a_single_file_draws_the_same(name: str, saved_model: Saved, tmp_path: Path) -> None:
    """The second encoder of SDXL has queries, keys and values in one tensor there."""
    model = saved_model(name)
    edit = trained_text_encoder(model, [Erased(CAPTION, 1.0, GUIDE)], KEEP)
    file, texts = EditFile.of(model, edit), (CAPTION, *OTHERS)
    networks = {**text_encoders_of(model.pipe), "unet": model.denoiser}
    weights = {
        f"{component}/{key}": value.clone()
        for component, network in networks.items()
        for key, value in network.state_dict().items()
    }
    last = max(text_encoders_of(model.pipe))
    joined = [key for key in weights if key.startswith(last) and ".q_proj." in key]
    before = dict(weights)
    for key in joined:
        three = [before.pop(key.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        before[key.replace("q_proj", "in_proj")] = torch.cat(three)
    base, output = tmp_path / "one.safetensors", tmp_path / "edited.safetensors"
    save_file(before, base)
    check_single_file(model, base, text_encoder_layers(model.pipe))
    export_single_file(model, file, base, output)
    assert verify(output, model, base_file=base).passed
    after = load_file(output)
    for key in joined:
        three = list(after.pop(key.replace("q_proj", "in_proj")).chunk(3))
        for letter in "qkv":
            after[key.replace("q_proj", f"{letter}_proj")] = three.pop(0)
    pipe = load_pipeline(str(model.pipe.config._name_or_path), device="cpu")
    for component in networks:
        own = {
            key.removeprefix(f"{component}/"): value
            for key, value in after.items()
            if key.startswith(f"{component}/")
        }
        getattr(pipe, component).load_state_dict(own)
    assert images(Model(pipe), None, *texts) == images(model, edit, *texts)
    key = joined[0].replace("q_proj", "in_proj")
    with safe_open(output, framework="pt") as content:
        metadata = content.metadata()
    spoilt = load_file(output)
    spoilt[key][-1] += 1  # a value
    save_file(spoilt, output, metadata)
    wrong = [
        each.key for each in verify(output, model, base_file=base).changes if not each.expected
    ]
    assert wrong == [key]
    save_file({name: value for name, value in before.items() if "in_proj" not in name}, base)
    with pytest.raises(ExportError, match=f"weight of {last}.* 0 times instead of once"):
        check_single_file(model, base, text_encoder_layers(model.pipe))


def test_a_batch_may_mix_images_with_and_without_the_edit() -> None:
    model = Model(make("Stable Diffusion"))
    edit = trained_text_encoder(model, [Erased(CAPTION, 1.0, GUIDE)], KEEP)
    settings = GenerationSettings(images=1, steps=2, guidance=3.0, batch=4)
    drawn = generate_each(model, [CAPTION, CAPTION], [edit, None], settings=settings)
    alone = [generate_each(model, [CAPTION], [each], settings=settings) for each in (edit, None)]
    edited, unedited = (np.asarray(image, dtype=np.int16) for (image,) in drawn)
    for mixed, ((image,),) in zip((edited, unedited), alone, strict=True):
        assert np.abs(mixed - np.asarray(image)).max() <= 1  # batches round differently
    assert np.abs(edited - unedited).max() > 1
