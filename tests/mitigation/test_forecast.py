"""What a mitigation is expected to take, counted by hand and in the denoiser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import DiffusionPipeline

from records import SMALL_MITIGATION
from unmemorize import GenerationSettings, Model, Prompt, memorized_region
from unmemorize.detection import REGION_SAMPLES
from unmemorize.mitigation import Forecast, Part, _forecast, forecast


@pytest.fixture(name="cost")
def cost_fixture(pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> Forecast:
    monkeypatch.setattr(_forecast, "seconds_per_sample", lambda *_: 0.5)
    generation = GenerationSettings(steps=5, guidance=3.0)
    suspects = [Prompt("a"), Prompt("a red door", paraphrases=("a door", "red")), Prompt("c")]
    return forecast(Model(pipe), replace(SMALL_MITIGATION, generation=generation), suspects)


def test_a_training_of_the_denoiser_that_is_not_made_is_not_counted(
    pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the model is what hinders it, a warning says so."""
    monkeypatch.setattr(_forecast, "seconds_per_sample", lambda *_: 0.5)
    whole = forecast(Model(pipe), SMALL_MITIGATION, [Prompt("a")])
    for settings in (
        replace(SMALL_MITIGATION, compare=False),
        replace(SMALL_MITIGATION, part="text-encoder"),
    ):
        assert "fine-tuning" not in forecast(Model(pipe), settings, [Prompt("a")]).images
    assert "not fine-tuned" not in caplog.text
    half = forecast(Model(pipe.to(torch.float16)), SMALL_MITIGATION, [Prompt("a")])
    assert "fine-tuning" not in half.images
    assert "not fine-tuned where other edits leave copies, since torch.float16" in caplog.text
    assert half.images["search"] == whole.images["search"] - SMALL_MITIGATION.search_images


def test_everything_that_runs_the_denoiser_is_counted(cost: Forecast) -> None:
    seeds = SMALL_MITIGATION.localization.noise.seeds
    drawn = sum(cost.images.values()) * 5 * 2
    assert cost.images["guides of prompts"] == 5 * 3 * 3
    assert cost.images["paraphrases"] == 2 * 4 * 2
    looked_at = 3.5 * seeds * 3  # detection, localization
    looked_at += (2 + 2 * 3 * 10) * seeds  # "a" and "a red", neighbours, rewordings
    assert cost.images["fine-tuning"] == 2 * 2 * 3 + 6
    trained = 4 * (4 + 3) * (3 + 1)
    assert cost.samples == drawn + round(looked_at) + 100 * 3 + trained
    assert cost.seconds == cost.samples / 2


def test_suspects_without_training_images_take_more_ordinary_images(
    pipe: DiffusionPipeline, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without, the agreement of two images of each ordinary caption is compared, see `prepare`."""
    monkeypatch.setattr(_forecast, "seconds_per_sample", lambda *_: 0.5)
    known, unknown = prompts[1], Prompt("b")
    assert known.images
    for suspects, images in (([known], 19), ([known, unknown], 38)):
        cost = forecast(Model(pipe), SMALL_MITIGATION, suspects)
        assert cost.images["ordinary images, unedited"] == images


@pytest.mark.parametrize(("clip", "images"), [(None, 19), (object(), 38)])
def test_distances_between_distributions_take_more_ordinary_images(
    pipe: DiffusionPipeline,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
    clip: Any,
    images: int,
) -> None:
    """But only with a CLIP, whose features are compared, see `prepare`."""
    monkeypatch.setattr(_forecast, "seconds_per_sample", lambda *_: 0.5)
    settings = replace(SMALL_MITIGATION, distances=True)
    cost = forecast(Model(pipe), settings, [prompts[1]], clip)
    assert cost.images["ordinary images, unedited"] == images


def test_the_training_of_a_text_encoder_takes_its_time(
    pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_forecast, "seconds_per_sample", lambda *_: 0.5)
    monkeypatch.setattr(_forecast, "seconds_of_training", lambda *_: 7.0)
    cost, trained = (
        forecast(Model(pipe), replace(SMALL_MITIGATION, part=part), [Prompt("a")])
        for part in get_args(Part)  # the denoiser first
    )
    assert cost.seconds == cost.samples / 2
    assert trained.seconds == trained.samples / 2 + 7
    assert cost.images["random neurons"] == 4 + SMALL_MITIGATION.sample
    assert "random neurons" not in trained.images  # there are none in such an edit


def test_a_map_of_a_region_takes_what_is_forecast(pipe: DiffusionPipeline) -> None:
    rows = []
    pipe.unet.register_forward_pre_hook(
        lambda _, args, __: rows.append(len(args[0])), with_kwargs=True
    )
    memorized_region(pipe, "a red door")
    assert sum(rows) == REGION_SAMPLES


def test_prompts_whose_training_images_are_lost_are_named_before_the_work(
    pipe: DiffusionPipeline,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Their copies are told by agreement, which is another question than the one that was asked."""
    monkeypatch.setattr(_forecast, "seconds_per_sample", lambda *_: 0.5)
    forecast(Model(pipe), SMALL_MITIGATION, [prompts[1], Prompt("b")])
    assert not caplog.text
    forecast(Model(pipe), SMALL_MITIGATION, [Prompt("a"), Prompt("b")])
    assert "No suspect names a training image" in caplog.text
    caplog.clear()
    forecast(Model(pipe), SMALL_MITIGATION, [Prompt("a cat", images=(tmp_path / "typo.png",))])
    assert "1 prompts name training images of which none can be read" in caplog.text
    assert "typo.png of 'a cat'" in caplog.text
    assert "No suspect" not in caplog.text
