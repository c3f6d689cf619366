"""Images of several prompts, drawn together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from unmemorize import GenerationSettings, Model
from unmemorize.engines import Finished
from unmemorize.generation import generate_each
from unmemorize.mitigation import _images
from unmemorize.mitigation._copy_test import CopyTest
from unmemorize.mitigation._images import Asked, ImagesTask

GENERATION = GenerationSettings(steps=2, guidance=3.0, batch=30)
TEXTS = ("a dog", "a house", "a tree")


class Numbers:
    """A descriptor that counts the images it has seen: 1 for each third one, and else 0."""

    def __init__(self, of_image: dict[bytes, float]) -> None:
        self.of_image = of_image

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.tensor([[self.of_image[image.tobytes()]] for image in images])


def records(outcomes: Sequence[Any]) -> list[Any]:
    assert all(isinstance(outcome, Finished) for outcome in outcomes)
    return [outcome.record for outcome in outcomes]


def test_prompts_that_share_batches_have_the_records_of_each_alone(
    pipe: DiffusionPipeline, monkeypatch: Any
) -> None:
    """One stops after the first images, one in the middle, and one never."""
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    model = Model(pipe)
    seeds = {text: tuple(range(10 * i, 10 * i + 6 + i)) for i, text in enumerate(TEXTS)}
    copies = {TEXTS[0]: {0, 1}, TEXTS[1]: {1, 3}, TEXTS[2]: {5}}
    scores: dict[bytes, float] = {}
    for text in TEXTS:
        made = generate_each(
            model,
            [text] * len(seeds[text]),
            [None] * len(seeds[text]),
            settings=GENERATION,
            seeds=seeds[text],
        )
        for number, (image, *_) in enumerate(made):
            scores[image.tobytes()] = float(number in copies[text])
    descriptor: Any = Numbers(scores)
    task = ImagesTask(
        kind="k", edit=None, settings=GENERATION, descriptor=descriptor, first=2, stop=2,
        keep="copies",
    )  # fmt: skip
    assert task.size == 3
    test = CopyTest("image", 0.5, references=torch.ones(1, 1))
    asked = [Asked(i, text, seeds[text], test) for i, text in enumerate(TEXTS)]
    calls: list[tuple[str, ...]] = []

    def counted(model: Model, prompts: Sequence[str], *args: Any, **options: Any) -> Any:
        calls.append(tuple(prompts))
        return generate_each(model, prompts, *args, **options)

    monkeypatch.setattr(_images, "generate_each", counted)
    found = records(task.prepare(model)(asked))
    assert calls == [
        (TEXTS[0], TEXTS[0], TEXTS[1], TEXTS[1], TEXTS[2], TEXTS[2]),
        (*[TEXTS[1]] * 5, *[TEXTS[2]] * 6),
    ]
    alone = [record for each in asked for record in records(task.prepare(model)([each]))]
    assert found == alone
    assert [record["copies"] for record in found] == [2, 2, 1]
    assert [len(record["seeds"]) for record in found] == [2, 7, 8]
    assert found[2]["files"] == ("k/00002_05.png",)


def test_a_batch_of_the_default_size_is_of_one_prompt() -> None:
    nothing: Any = None
    for batch, size in ((4, 1), (10, 1), (19, 1), (240, 24)):
        settings = GenerationSettings(batch=batch)
        task = ImagesTask(kind="k", edit=None, settings=settings, descriptor=nothing, first=2)
        assert task.size == size
