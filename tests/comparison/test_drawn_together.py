"""Several suspects in one batch: each is drawn as it is alone, under what was fitted to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from colours import Pixels, noise
from conftest import make_pipeline
from unmemorize import (
    GenerationSettings,
    MetricError,
    MitigationError,
    Model,
    Neurons,
    NoiseSettings,
    Prompt,
)
from unmemorize.comparison import _drawn
from unmemorize.comparison._drawn import Drawn, DrawTask
from unmemorize.comparison._once import Once
from unmemorize.comparison._scores import ScoreTask
from unmemorize.detection import Score, Trace
from unmemorize.generation import Drawing, Plan, generate_each
from unmemorize.methods import MITIGATIONS, Mitigation, WhileDrawing, method_of
from unmemorize.mitigation import CopyTest

SETTINGS = GenerationSettings(steps=3, guidance=3.0, batch=30)
TEXTS = ("a red cat", "two dogs", "a house")
CHEAP: dict[str, dict[str, float]] = {
    "esd": {"strength": 2, "rate": 0.05},
    "siss": {"strength": 1, "rate": 0.05},
    "wanda": {"strength": 0.2},
    "noise-sample": {"strength": 0},
    "embedding": {"strength": 0},
    "attenuation": {"strength": 0},
    "delayed-guidance": {"strength": 25},
}
"""Settings with which a few steps of tiny models show that something was done."""


@pytest.fixture(name="model", scope="module")
def model_fixture() -> Model:
    return Model(make_pipeline())


@pytest.fixture(name="items", scope="module")
def items_fixture(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Drawn]:
    """Three suspects with a seed and an ordinary caption each, and neurons of their own."""
    folder, look = tmp_path_factory.mktemp("images"), Pixels()
    layers = list(model.value_layers)
    items = []
    for index, text in enumerate(TEXTS):
        image, before = noise(index, (16, 16)), noise(9 + index, (16, 16))
        image.save(folder / f"{index}.png")
        neurons = Neurons({layers[index]: [0, 1 + index], layers[-1]: [2]})
        items.append(
            Drawn(
                prompt=Prompt(text, images=(folder / f"{index}.png",)),
                seeds=(10 + index,),
                originals=(folder / f"{index}.png",),
                test=CopyTest("image", 0.5, look([image])),
                captions=(f"ordinary {index}",),
                caption_seeds=(30 + index,),
                before=look([before]),
                localization=_localized(neurons),
            )
        )
    return items


def _localized(neurons: Neurons) -> Any:
    return SimpleNamespace(neurons=neurons, refinement="", seconds=0.0)


Image8 = np.ndarray[Any, Any]


@pytest.fixture(name="unedited", scope="module")
def unedited_fixture(model: Model, items: list[Drawn]) -> list[Image8]:
    """The images of the first two suspects and their captions."""
    prompts = [text for item in items[:2] for text in (item.prompt.text, *item.captions)]
    seeds = [seed for item in items[:2] for seed in (*item.seeds, *item.caption_seeds)]
    settings = replace(SETTINGS, images=1)
    drawn = generate_each(model, prompts, [None] * 4, settings=settings, seeds=seeds)
    return [np.asarray(image, dtype=np.int64) for (image,) in drawn]


@dataclass
class Watched:
    """What was drawn, call by call."""

    calls: list[list[Image8]]

    def __call__(self, *args: Any, **options: Any) -> list[list[Image.Image]]:
        drawn = generate_each(*args, **options)
        self.calls.append([np.asarray(image, dtype=np.int64) for (image,) in drawn])
        return drawn


@pytest.fixture(name="watched")
def watched_fixture(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched([])
    monkeypatch.setattr(_drawn, "generate_each", watched)
    return watched


def records_of(task: DrawTask, model: Model, items: Sequence[Drawn]) -> list[Any]:
    finished: Sequence[Any] = task.prepare(model)(items)
    return [each.record for each in finished]


def task_of(method: Mitigation | None) -> DrawTask:
    return DrawTask(
        method=method, kept=("a tree",), settings=SETTINGS, descriptor=Once(Pixels()), clip=None
    )


@pytest.mark.parametrize("name", ["", *MITIGATIONS.names()])
def test_images_are_those_of_each_suspect_alone(
    name: str,
    model: Model,
    items: list[Drawn],
    unedited: list[Image8],
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for constant, value in (  # so that the others take no longer than they must
        ("_siss._KEPT", 2),
        ("_siss._BATCH", 2),
        ("_wanda._IMAGES", 2),
        ("_initial_noise._ITERATIONS", 4),
        ("_repad.PAD", "q"),
    ):
        monkeypatch.setattr(f"unmemorize.methods.{constant}", value)
    make: Any = MITIGATIONS.get(name) if name else lambda: None
    method = make(**CHEAP.get(name, {}))
    for item in items:
        localization: Any = item.localization
        localization.refinement = getattr(method, "refinement", "")
    task, two = task_of(method), items[:2]
    together = records_of(task, model, two)
    alone = [record for item in two for record in records_of(task, model, [item])]
    assert not any(record["refused"] for record in together + alone)
    one, *others = watched.calls
    assert [len(each) for each in watched.calls] == [4, 2, 2]
    for image, other in zip(one, chain(*others), strict=True):
        assert np.abs(image - other).max() <= 1  # rounding of 8 bits
    for record, other in zip(together, alone, strict=True):
        assert record["prompt"] == other["prompt"]
        assert record["scores"] == pytest.approx(other["scores"], abs=1e-3)
        assert record["similarity"] == pytest.approx(other["similarity"], abs=1e-3)
    assert [record["images"] for record in together] == [2, 2]
    assert together[0]["seconds"] == together[1]["seconds"] > 0  # shares of one batch
    changed = any(np.abs(a - b).max() > 1 for a, b in zip(one, unedited, strict=True))
    assert changed == bool(name)


@dataclass(frozen=True)
class Reluctant(WhileDrawing):
    """Refuses one prompt, while it plans."""

    kind: ClassVar[str] = "reluctant"
    grid: ClassVar[tuple[float, ...]] = (1.0,)
    strength: float = 1.0

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        if TEXTS[1] in drawing.prompts:
            raise MitigationError("reluctant: not this one. Use another.")
        return Plan(-drawing.noise)


def test_who_is_refused_while_drawing_is_refused_alone(
    model: Model, items: list[Drawn], watched: Watched
) -> None:
    records = records_of(task_of(Reluctant()), model, items)
    assert [bool(record["refused"]) for record in records] == [False, True, False]
    assert "not this one" in records[1]["refused"]
    assert [record["images"] for record in records] == [2, 0, 2]
    records_of(task_of(Reluctant()), model, [items[2]])
    assert all(map(np.array_equal, watched.calls[-1], watched.calls[-2]))


@dataclass(frozen=True)
class Fits:
    """Fits one prompt alone."""

    name: ClassVar[str] = "fits"
    grid: ClassVar[tuple[float, ...]] = (1.0,)
    strength: float = 1.0

    def fit(self, _model: Model, suspect: Any) -> Any:
        if suspect.prompt.text != TEXTS[1]:
            raise MitigationError("fits: nothing to do here. Use another.")
        return method_of("random-tokens=4")


def test_only_what_was_fitted_is_drawn(model: Model, items: list[Drawn], watched: Watched) -> None:
    records = records_of(task_of(Fits()), model, items)
    assert [bool(record["refused"]) for record in records] == [True, False, True]
    assert [len(each) for each in watched.calls] == [2]
    assert records[0]["fit_seconds"] == 0 < records[1]["fit_seconds"]


@pytest.mark.parametrize(("batch", "size"), [(10, 1), (19, 1), (240, 24)])
def test_units_grow_with_the_batch(batch: int, size: int) -> None:
    settings = replace(SETTINGS, batch=batch)
    assert replace(task_of(None), settings=settings).size == size


def test_a_metric_that_forgets_an_image_is_refused(
    model: Model, items: list[Drawn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a set of images is evaluated."""
    monkeypatch.setattr(_drawn, "make_metrics", lambda _: {"few": lambda _images: ()})
    with pytest.raises(MetricError, match="few: 0 values for 1 images"):
        records_of(task_of(None), model, items[:1])


class Counting:
    """A detector that notes what it is given."""

    name = "counting"

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []

    def score(self, trace: Trace) -> Sequence[Score]:
        passes = [rows.stop - rows.start for rows, _ in trace.batches(4)]
        self.seen.append((len(trace), passes))
        return [Score(value=0.0, samples=4, seeds=(0,))] * len(trace)


@pytest.mark.parametrize(
    ("batch", "size", "passes"), [(10, 4, [16]), (16, 4, [16]), (40, 20, [40, 40])]
)
def test_detectors_take_the_batch(model: Model, batch: int, size: int, passes: list[int]) -> None:
    detector = Counting()
    task = ScoreTask(detector, NoiseSettings(seeds=2), batch)
    texts = [f"a cat {number}" for number in range(task.size)]
    assert len(task.prepare(model)(texts)) == size
    assert detector.seen == [(size, passes)]


def test_descriptors_are_computed_once() -> None:
    asked: list[int] = []

    class Counted(Pixels):
        def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
            asked.append(len(images))
            return super().__call__(images)

    once = Once(Counted())
    first, second = noise(1, (8, 8)), noise(2, (8, 8))
    expected = Pixels()([first, second, first])
    assert torch.equal(once([first, second, first]), expected)
    assert torch.equal(once([second.copy()]), expected[[1]])
    assert asked == [2]
    assert (once.name, once.digest) == (Pixels().name, Pixels().digest)
    assert once([Image.new("RGB", (8, 2))]).shape == once([Image.new("RGB", (2, 8))]).shape
    assert asked == [2, 1, 1]  # the same bytes in another shape are another image
