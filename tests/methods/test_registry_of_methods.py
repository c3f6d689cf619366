"""What all methods have in common."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from architectures import make
from drawings import PROMPTS, a_drawing, drawn, state_of
from unmemorize import (
    GenerationSettings,
    MitigationError,
    Model,
    ModelError,
    Neurons,
    Prompt,
    PromptError,
    Suspect,
    UnmemorizeError,
    generate,
)
from unmemorize.generation import Change, NeuronEdit, drawn_latents, generate_each
from unmemorize.methods import (
    MITIGATIONS,
    WhileDrawing,
    at_strength,
    intervention_from_json,
    method_of,
)

GRIDS = {
    "neurons": (0.5, 1.0, 1.25, 1.5, 2.0),
    "neurons-bisect": (0.5, 1.0, 1.25, 1.5, 2.0),
    "neurons-greedy": (0.5, 1.0, 1.25, 1.5, 2.0),
    "closed-form": (1.0, 3.0, 10.0),
    "wanda": (0.01, 0.02, 0.05, 0.1),
    "esd": (50.0, 100.0, 200.0, 400.0),
    "siss": (10.0, 20.0, 35.0),
    "random-tokens": (1.0, 4.0, 10.0),
    "embedding": (7.0, 6.0, 5.0, 4.0, 3.0),
    "attention": (1.15, 1.2, 1.25, 1.3, 1.35),
    "attenuation": (0.7, 0.5, 0.3, 0.1),
    "guard": (1.0, 2.0, 3.0),
    "pads": (0.3, 0.5, 0.7, 0.9),
    "repad": (0.0, 0.5, 1.0),
    "static-guidance": (700.0, 600.0, 500.0),
    "opposite-guidance": (1.0, 2.0, 3.0, 5.0, 7.0, 9.0),
    "dynamic-guidance": (0.0, 1.0),
    "opposite-dynamic": (1.0, 2.0, 3.0, 5.0, 7.0, 9.0),
    "noise-batch": (0.35, 0.7, 1.4),
    "noise-sample": (1.5, 1.3, 1.1, 0.9, 0.7),
    "delayed-guidance": (2.0, 5.0, 10.0, 15.0),
}
DEFAULTS = {
    "neurons": 1.0,
    "closed-form": 10.0,
    "wanda": 0.01,
    "esd": 200.0,
    "siss": 35.0,
    "random-tokens": 4.0,
    "embedding": 3.0,
    "attention": 1.25,
    "attenuation": 0.3,
    "guard": 2.0,
    "pads": 0.7,
    "repad": 1.0,
    "static-guidance": 500.0,
    "opposite-guidance": 2.0,
    "dynamic-guidance": 1.0,
    "opposite-dynamic": 2.0,
    "noise-batch": 0.7,
    "noise-sample": 0.9,
    "delayed-guidance": 5.0,
}
EDITING = ("neurons", "neurons-bisect", "neurons-greedy", "closed-form", "wanda", "esd", "siss")
DRAWING = tuple(name for name in GRIDS if name not in EDITING)
SETTINGS = GenerationSettings(images=1, seed=3, steps=3, guidance=3.0, batch=8)
SUSPECT = Suspect(prompt=Prompt("a cat"), settings=SETTINGS)


@pytest.fixture(autouse=True)
def short_optimization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmemorize.methods._initial_noise._ITERATIONS", 3)


STRENGTHS = {"noise-sample": 0, "embedding": 0, "delayed-guidance": 25}
"""Strengths at which tiny models show that something was done within four steps."""


def made(name: str) -> Any:
    return method_of(f"{name}={STRENGTHS[name]}" if name in STRENGTHS else name)


def test_the_methods_their_grids_and_defaults() -> None:
    built_in = [name for name in MITIGATIONS.names() if name in GRIDS]
    assert built_in == list(GRIDS)
    for name, grid in GRIDS.items():
        method = method_of(name)
        assert (method.name, method.grid) == (name, grid)
        assert method.strength == DEFAULTS.get(name, 1.0)


def test_the_prompt_of_a_suspect_may_be_a_text() -> None:
    text: Any = "a cat"
    assert Suspect(prompt=text) == Suspect(prompt=Prompt("a cat"))
    with pytest.raises(PromptError, match="not a prompt"):
        Suspect(prompt=3)  # type: ignore[arg-type]


def test_strengths_are_given_by_name() -> None:
    assert method_of("guard=3").strength == 3
    assert at_strength(method_of("guard"), 1.0) == method_of("guard=1")
    with pytest.raises(MitigationError, match="is no number"):
        method_of("guard=strong")
    with pytest.raises(MitigationError, match="'' is no number"):
        method_of("guard=")
    with pytest.raises(MitigationError, match="nothing of this name"):
        method_of("guards")


class Plain:
    """A method of others that is no dataclass."""

    name = "plain"
    grid = (1.0, 2.0)

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    def fit(self, model: Model, suspect: Suspect) -> Change:
        return method_of("random-tokens").fit(model, suspect)


def test_a_method_need_not_be_a_dataclass() -> None:
    method = at_strength(Plain(), 2.0)
    assert (type(method), method.strength) == (Plain, 2.0)


@pytest.mark.parametrize(
    "text",
    [
        "neurons=-1",
        "closed-form=0",
        "wanda=0",
        "wanda=1.5",
        "esd=1.5",
        "siss=0",
        "random-tokens=1.5",
        "random-tokens=-1",
        "embedding=-1",
        "attention=.9",
        "attenuation=1.1",
        "guard=-1",
        "pads=1.1",
        "repad=-.1",
        "static-guidance=1001",
        "opposite-guidance=-1",
        "dynamic-guidance=2",
        "opposite-dynamic=-1",
        "noise-batch=-1",
        "noise-sample=nan",
        "delayed-guidance=51",
    ],
)
def test_strengths_out_of_range_are_refused(text: str) -> None:
    expected = r"strength .* is not possible\. Use a|strength=nan: not a finite number"
    with pytest.raises(MitigationError, match=expected):
        method_of(text)


@pytest.mark.parametrize("name", DRAWING)
def test_interventions_are_read_back_and_compared(name: str) -> None:
    method: Any = method_of(name)
    assert isinstance(method, WhileDrawing)
    content = method.to_json()
    assert (content["kind"], content["strength"]) == (name, method.strength)
    assert intervention_from_json(content) == method == pickle.loads(pickle.dumps(method))
    assert at_strength(method, method.grid[0]) != at_strength(method, method.grid[-1])
    for damaged in ({**content, "more": 1}, {"kind": name}, {**content, "strength": "1"}):
        with pytest.raises(MitigationError, match="not valid settings of the method"):
            intervention_from_json(damaged)


def test_other_json_is_no_intervention() -> None:
    values: list[Any] = [[], {}, {"kind": 3}]
    for value in values:
        with pytest.raises(MitigationError, match="unknown"):
            intervention_from_json(value)
    with pytest.raises(MitigationError, match="edits weights"):
        intervention_from_json({"kind": "esd"})
    with pytest.raises(MitigationError, match="another kind"):
        type(method_of("guard")).from_json({"kind": "pads", "strength": 1})  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in DRAWING if name != "repad"])
def test_each_image_is_drawn_as_if_alone_and_nothing_is_left(
    name: str, pipe: DiffusionPipeline
) -> None:
    """Two prompts with the method, one without, and one with neurons off, in one batch."""
    model = Model(pipe)
    method = made(name)
    off = NeuronEdit(Neurons({path: [0, 1] for path in model.value_layers}))
    prompts = [*PROMPTS, "a dog", "a bird"]
    changes: list[Change | None] = [method, method, None, off]
    before = state_of(pipe)
    together = generate_each(model, prompts, changes, settings=SETTINGS, seeds=[1, 2, 3, 4])
    assert state_of(pipe) == before
    for index in (1, 3):
        (alone,) = generate_each(
            model, [prompts[index]], [changes[index]], settings=SETTINGS, seeds=[index + 1]
        )
        difference = np.asarray(together[index][0]).astype(int) - np.asarray(alone[0])
        assert abs(difference).max() <= 1
    drawing = a_drawing(model, steps=3)
    plain = drawn_latents(model, drawing)
    if name != "random-tokens":
        assert not torch.allclose(drawn(model, method, drawing), plain, atol=1e-3)
    assert torch.equal(drawn_latents(model, drawing), plain)


@pytest.mark.parametrize("name", [name for name in DRAWING if name != "repad"])
def test_nothing_is_left_after_an_exception(name: str, pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    plan = made(name).plan(model, a_drawing(model))
    before = state_of(pipe)
    with pytest.raises(KeyboardInterrupt), plan.context:
        raise KeyboardInterrupt
    assert state_of(pipe) == before


_ATTENDING = {"attention", "attenuation", "guard", "pads", "repad"}
_OF_CLIP = {"attention", "pads", "repad"}
_GUIDED = {*DRAWING} - {"random-tokens", "embedding", "noise-sample"}
REFUSED = {
    "Stable Diffusion 2": {"repad"},
    "Stable Diffusion XL": {"repad"},
    "DeepFloyd IF": _ATTENDING,
    "PixArt": _OF_CLIP,
    "Stable Diffusion 3": _ATTENDING,
    "Flux": _GUIDED,
    "Qwen-Image": _GUIDED,
    "HunyuanDiT": _OF_CLIP,
    "Sana": _OF_CLIP,
}
"""Architecture -> the methods that refuse it."""


@pytest.mark.parametrize("architecture", REFUSED)
def test_methods_work_or_say_why_not(architecture: str) -> None:
    model = Model(make(architecture))
    settings = replace(SETTINGS, steps=2)
    before = state_of(model.pipe)
    for name in DRAWING:
        if name in REFUSED[architecture]:
            with pytest.raises(MitigationError, match=rf"^{name}: .*\. Use "):
                made(name).fit(model, SUSPECT).plan(model, a_drawing(model, ["a cat"]))
        else:
            change = made(name).fit(model, SUSPECT)
            (image,) = generate(model, "a cat", change, settings=settings)
            assert image.width >= 16
    assert state_of(model.pipe) == before


@pytest.mark.parametrize("name", ["static-guidance", "dynamic-guidance", "noise-batch", "guard"])
def test_changes_of_guidance_need_guidance(name: str, pipe: DiffusionPipeline) -> None:
    settings = replace(SETTINGS, guidance=1.0)
    with pytest.raises(MitigationError, match="guidance 1 is none"):
        generate(pipe, "a cat", made(name), settings=settings)


EDITS = {
    "Stable Diffusion 2": {"siss"},
    "Stable Diffusion XL": set[str](),
    "DeepFloyd IF": {"wanda"},
    "Stable Diffusion 3": {"closed-form", "esd", "siss"},
    "Flux": {"closed-form", "esd", "siss"},
    "Qwen-Image": {"closed-form", "wanda", "esd", "siss"},
    "HunyuanDiT": {"siss"},
    "Sana": {"wanda", "siss"},
}
"""Architecture -> the edits that refuse it. SISS asks all others for a training image."""
WHY = {
    "closed-form": r"keys and values of the text cannot be edited",
    "esd": r"cannot be edited \(by a closed form or by esd\)",
    "wanda": r"no linear layers called ff\.net\.2",
    "siss": r"does not predict noise",
}


@pytest.mark.parametrize("architecture", EDITS)
def test_edits_work_or_say_why_not(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmemorize.methods._wanda._IMAGES", 1)
    model = Model(make(architecture))
    suspect = replace(SUSPECT, ordinary=("a dog",), settings=replace(SETTINGS, steps=2))
    before = state_of(model.pipe)
    for name, why in WHY.items():
        method = method_of({"wanda": "wanda=.05", "closed-form": name}.get(name, f"{name}=1"))
        if name in EDITS[architecture]:
            with pytest.raises(UnmemorizeError, match=rf"{why}.*\. (Use|Switch) "):
                method.fit(model, suspect)
        elif name == "siss":
            with pytest.raises(MitigationError, match="names no training image"):
                method.fit(model, suspect)
        else:
            edit = method.fit(model, suspect)
            (image,) = generate(model, "a cat", edit, settings=suspect.settings)
            assert image.width >= 16
    assert state_of(model.pipe) == before


def test_neurons_need_a_localization(pipe: DiffusionPipeline) -> None:
    with pytest.raises(MitigationError, match="no localization with refinement greedy"):
        method_of("neurons-greedy").fit(Model(pipe), SUSPECT)


def test_a_batch_of_another_size_is_refused(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    plan = made("attenuation").plan(model, a_drawing(model))
    with plan.context, pytest.raises(ModelError, match="2 samples do not fit a batch of 3"):
        model.predict(model.draw_latents(3, 1), torch.tensor(300), model.encode(["a", "b", "c"]))


def test_something_else_is_no_change(pipe: DiffusionPipeline) -> None:
    with pytest.raises(UnmemorizeError, match=r"an edit, or the file of one"):
        generate(pipe, "a cat", 3, settings=SETTINGS)  # type: ignore[arg-type]
