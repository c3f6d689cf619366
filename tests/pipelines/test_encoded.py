"""How prompts are encoded. Where they are padded to the longest, none depends on the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import make
from unmemorize import (
    GenerationSettings,
    Model,
    ModelError,
    NoiseSettings,
    Prompt,
    Threshold,
    compute_statistics,
    detect,
)
from unmemorize.detection import detect_prompts, make_probe, noise_differences
from unmemorize.generation import generate_each
from unmemorize.pipelines import Ragged
from unmemorize.statistics import activations

TEXTS = ["a", "a much longer prompt than the first", "b", "one of middle length"]
SETTINGS = NoiseSettings(seeds=3)


def without_mask() -> Any:
    """Qwen-Image whose padding is read as text, as CogView4's is."""
    pipe = make("Qwen-Image")
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda *args, **kwargs: (encode(*args, **kwargs)[0], None)
    return pipe


PADDING: dict[str, Callable[[], Any]] = {
    "masked": lambda: make("Qwen-Image"),
    "not masked": without_mask,
}


@pytest.fixture(params=list(PADDING))
def model(request: pytest.FixtureRequest) -> Model:
    return Model(PADDING[request.param]())


def test_the_pipeline_itself_pads(model: Model) -> None:
    """Otherwise the other tests would show nothing."""
    lengths = [
        model.pipe.encode_prompt(texts, device=model.device)[0].shape[1]
        for texts in (TEXTS[:1], TEXTS[:2])
    ]
    assert lengths[0] < lengths[1]


def alone(model: Model, text: str) -> dict[str, Tensor]:
    """Absolute outputs of value layers for one prompt, as its pipeline encodes it alone."""
    outputs: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(
            lambda _layer, _inputs, output, path=path: outputs.__setitem__(path, output)
        )
        for path, layer in model.value_layers.items()
    ]
    embeds, mask = model.pipe.encode_prompt([text], device=model.device)
    assert mask is None or bool(mask.all())
    latents, timestep = model.draw_latents(1, 1), model.timesteps(50)[1]
    model.denoiser(
        hidden_states=model.to_denoiser(latents),
        timestep=timestep[None] / 1000,
        encoder_hidden_states=embeds,
        encoder_hidden_states_mask=mask,
        img_shapes=[[(1, 8, 8)]],
    )
    for handle in handles:
        handle.remove()
    return {path: output.abs().mean(1)[0] for path, output in outputs.items()}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_activations_do_not_depend_on_the_batch(model: Model, size: int) -> None:
    chunks = [
        activations(model, model.encode(TEXTS[start : start + size]))
        for start in range(0, len(TEXTS), size)
    ]
    for row, text in enumerate(TEXTS):
        for path, expected in alone(model, text).items():
            found = torch.cat([chunk[path] for chunk in chunks])[row]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_statistics_do_not_depend_on_the_batch(model: Model) -> None:
    single, together = (compute_statistics(model, TEXTS, batch=batch) for batch in (1, 4))
    for layer in model.value_layers:
        torch.testing.assert_close(single.mean[layer], together.mean[layer], rtol=1e-5, atol=0)
        torch.testing.assert_close(single.std[layer], together.std[layer], rtol=1e-4, atol=1e-8)


def test_several_prompts_are_detected_as_each_alone(model: Model) -> None:
    threshold = Threshold.given(model, 0.4, settings=SETTINGS)
    prompts = [Prompt(text) for text in TEXTS]
    found = detect_prompts(model, prompts, threshold, SETTINGS, stop="never", batch=16)
    scores = [detect(model, text, threshold=threshold, stop="never").score for text in TEXTS]
    assert [detection.score for detection in found] == pytest.approx(scores, abs=1e-5)
    assert len(set(scores)) == len(TEXTS)


def test_predictions_do_not_depend_on_the_batch(model: Model) -> None:
    text, timestep = model.encode(TEXTS), model.timesteps(50)[1]
    latents = model.draw_latents(len(TEXTS), 1)
    together = model.predict(latents, timestep, text)
    for row, prompt in enumerate(TEXTS):
        single = model.predict(latents[[row]], timestep, model.encode([prompt]))
        torch.testing.assert_close(together[[row]], single, rtol=0, atol=1e-5)
    probe = make_probe(model, model.encode(TEXTS[1:2]), SETTINGS)
    assert noise_differences(model, probe).shape == (3, 4, 16, 16)


def test_images_do_not_depend_on_the_batch(model: Model) -> None:
    """The pipeline pads here, so prompts are not mixed in one call."""

    def pixels(batch: int) -> Tensor:
        settings = GenerationSettings(images=2, steps=2, guidance=1.0, batch=batch)
        images = generate_each(model, TEXTS[:3], [None] * 3, settings=settings)
        flat = [list(image.get_flattened_data()) for row in images for image in row]
        return torch.tensor(flat)

    assert (pixels(1) - pixels(6)).abs().max() <= 1


def test_rows_keep_their_prompts(model: Model) -> None:
    text = model.encode(TEXTS)
    assert isinstance(text, Ragged)
    assert [rows for rows, _ in text.groups()] == [[0, 2], [1], [3]]
    taken = text.take([3, 0, 0])
    expected = [model.encode([TEXTS[row]]).text for row in (3, 0, 0)]
    for rows, part in taken.groups():
        for at, row in enumerate(rows):
            assert torch.equal(part.text[[at]], expected[row])
    joined = model.encode(TEXTS[:1]).join(model.encode(TEXTS[1:2])).join(text)
    assert len(joined) == 6
    assert torch.equal(joined.take([1]).text, text.take([1]).text)
    assert torch.equal(joined.take([2, 4]).text, text.take([0, 2]).text)
    with pytest.raises(ModelError, match="unequal lengths have no common tensor"):
        _ = text.text


@pytest.mark.parametrize(("name", "cleaned"), [("Sana", False), ("PixArt", True)])
@pytest.mark.parametrize("installed", [True, False])
def test_captions_are_cleaned_as_the_pipeline_does_by_default(
    name: str, cleaned: bool, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The literal defaults are those of diffusers 0.42."""
    pipe, seen = make(name), set()
    prepare = pipe._text_preprocessing

    def note(texts: Any, clean_caption: bool) -> Any:
        seen.add(clean_caption)
        return prepare(texts, clean_caption=False)

    monkeypatch.setattr(pipe, "_text_preprocessing", note)
    for library in ("is_bs4_available", "is_ftfy_available"):
        monkeypatch.setattr(f"unmemorize.pipelines._conditioning.{library}", lambda: installed)
    Model(pipe).encode(["An <b>orange</b> cat"])
    assert seen == {cleaned and installed}
