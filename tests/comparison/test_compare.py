"""Comparisons: every number against the records, and what happens when something goes wrong."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from compared import (
    CAPTIONS,
    DETECTORS,
    GROUPS,
    METHODS,
    SETTINGS,
    TEXTS,
    Colours,
    compare,
    make_inputs,
    make_suspects,
)
from diffusers import DiffusionPipeline

import compare as benchmark
import compare_page
from colours import Pixels
from conftest import make_pipeline
from unmemorize import (
    Comparison,
    ComparisonInputs,
    ComparisonSettings,
    MitigationError,
    Model,
    Prompt,
    Run,
    RunError,
    Shard,
    StatisticsError,
    ThresholdError,
    UnfinishedError,
    UnmemorizeError,
)
from unmemorize.cli.compare import _print_comparison
from unmemorize.comparison import (
    ComparisonCaptions,
    _drawn,
    _forecast,
    chosen_detectors,
    chosen_methods,
    compare_all,
    forecast_comparison,
)
from unmemorize.comparison._drawn import DrawnRecord
from unmemorize.comparison._methods import method_rows
from unmemorize.comparison._published import PUBLISHED
from unmemorize.engines import Execution, Progress
from unmemorize.generation import generate_each
from unmemorize.methods import MITIGATIONS
from unmemorize.methods._random_tokens import RandomTokens
from unmemorize.metrics import _detection, read_image
from unmemorize.mitigation._ordinary import packed
from unmemorize.report import write_comparison
from unmemorize.report._comparison import points_of
from unmemorize.runs import kinds_in


@dataclass(frozen=True)
class Made:
    """A finished comparison, and what it was made of."""

    pipe: DiffusionPipeline
    inputs: ComparisonInputs
    suspects: list[Prompt]
    folder: Path
    comparison: Comparison


RESAMPLES = 20
"""Of the bootstrap, which would take most of the time."""


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_detection, "_RESAMPLES", RESAMPLES)


@pytest.fixture(name="made", scope="module")
def made_fixture(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("comparison")
    pipe = make_pipeline()
    model = Model(pipe)
    inputs, suspects = make_inputs(model), make_suspects(model, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_detection, "_RESAMPLES", RESAMPLES)
        comparison, run = compare(pipe, folder / "run", suspects, inputs)
    return Made(pipe, inputs, suspects, run.folder, comparison)


@pytest.fixture(name="again")
def again_fixture(made: Made, tmp_path: Path) -> Made:
    """The same in a folder of its own, which a test may change."""
    shutil.copytree(made.folder.parent, tmp_path / "copy")
    return replace(made, folder=tmp_path / "copy" / "run")


def lines_of(folder: Path, start: str) -> list[dict[str, Any]]:
    """The lines of the only file of records whose name begins so, in the order of the items."""
    (path,) = folder.glob(f"{start}-*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["index"])


def records_of(folder: Path, method: str, strength: float) -> dict[int, dict[str, Any]]:
    """The records of a method at one strength by index of the suspect."""
    lines = [
        json.loads(line)
        for path in folder.glob(f"method-{method}-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return {line["index"]: line for line in lines if line["strength"] == strength}


def test_detectors_are_calibrated_and_counted(made: Made) -> None:
    """The level is the largest of ten scores, of eight for a detector that takes two for units."""
    rows = {row.name: row for row in made.comparison.detectors}
    magnitude = lines_of(made.folder, "detector-noise-magnitude")
    assert [line["prompt"] for line in magnitude] == [
        *TEXTS,
        *CAPTIONS.calibration,
        *CAPTIONS.test,
    ]
    parts = np.array([line["parts"] for line in lines_of(made.folder, "detector-anisotropy")])
    units = parts[3:5]
    standardised = (parts - units.mean(0)) / units.std(0, ddof=1)
    for name, scores, used in (
        ("noise-magnitude", np.array([line["value"] for line in magnitude]), 0),
        ("anisotropy", standardised.sum(1), 2),
    ):
        row, ours, others = rows[name], scores[:3], scores[13:]
        level = scores[3 + used : 13].max()
        assert row.level == pytest.approx(level, rel=1e-6)
        assert row.calibration == 10 - used
        assert row.rate == pytest.approx(1 / (11 - used), rel=1e-2)
        assert (row.false_alarms, row.test) == (int((others > level).sum()), 10)
        wilson = scipy.stats.binomtest(row.false_alarms, 10).proportion_ci(0.95, "wilson")
        assert row.false_alarm_interval == pytest.approx((wilson.low, wilson.high))
        assert list(row.groups) == ["all", "natural", "planted"]
        for group, places in {"all": [0, 1, 2], "natural": [0], "planted": [1, 2]}.items():
            found, mine = row.groups[group], ours[places]
            area = np.mean([(a > b) + (a == b) / 2 for a in mine for b in others])
            assert found.auroc.value == pytest.approx(area, abs=1e-6)
            assert found.auroc.low <= found.auroc.value <= found.auroc.high
            assert found.tpr.value == pytest.approx((mine > others.max()).mean())
            assert (found.found, found.suspects) == (int((mine > level).sum()), len(places))
    assert (rows["noise-magnitude"].samples, rows["noise-magnitude"].shared) == (1, 1)
    seconds = np.median([line["seconds"] for line in magnitude])
    assert rows["noise-magnitude"].seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("method", "strength"),
    [("none", 0.0), ("random-tokens", 1.0), ("random-tokens", 4.0), ("neurons", 1.0)],
)
def test_methods_are_summed_up(made: Made, method: str, strength: float) -> None:
    records = records_of(made.folder, method, strength)
    unedited = records_of(made.folder, "none", 0.0)
    assert sorted(records) == [0, 1]
    rows = {
        row.group: row
        for row in made.comparison.methods
        if (row.method, row.strength) == (method, strength)
    }
    assert list(rows) == ["all", "natural", "planted"]
    for group, indices in {"all": [0, 1], "natural": [0], "planted": [1]}.items():
        row, some = rows[group], [records[index] for index in indices]
        copies = sum(record["copies"] for record in some)
        assert (row.suspects, row.refused) == (len(indices), 0)
        assert (row.copies.copies, row.copies.seeds) == (copies, 3 * len(indices))
        assert row.copy_rate == pytest.approx(copies / (3 * len(indices)))
        exact = scipy.stats.binomtest(copies, 3 * len(indices), alternative="less")
        assert row.bound == pytest.approx(exact.proportion_ci(0.95, "exact").high)
        values = {
            name: [record["values"][name] for record in some if name in record["values"]]
            for name in ("sscd-orig", "masked-copy", "d-sscd", "a-clip")
        }
        assert row.copy == pytest.approx(np.median([np.median(v) for v in values["sscd-orig"]]))
        assert row.copy_worst == pytest.approx(np.median([max(v) for v in values["sscd-orig"]]))
        assert row.diversity == pytest.approx(np.median(values["d-sscd"]))
        assert row.alignment == pytest.approx(np.median([np.median(v) for v in values["a-clip"]]))
        masked = values["masked-copy"]
        assert row.masked == (pytest.approx(np.median(masked[0])) if masked else None)
        assert row.masked_worst == (pytest.approx(max(masked[0])) if masked else None)
        similarity = [value for record in some for value in record["similarity"]]
        assert (row.ordinary, row.changed) == (len(similarity), sum(s < 0.5 for s in similarity))
        aligned = [value for record in some for value in record["alignment"]]
        assert row.ordinary_alignment == pytest.approx(np.median(aligned))
        assert row.fit_seconds == pytest.approx(np.median([r["fit_seconds"] for r in some]))
        ratios = [
            records[index]["seconds"]
            / records[index]["images"]
            * unedited[index]["images"]
            / unedited[index]["seconds"]
            for index in indices
        ]
        assert row.draw_ratio == pytest.approx(np.median(ratios))
    assert rows["all"].ordinary == SETTINGS.images
    assert rows["natural"].clip_fid is None
    other = [
        unpacked(json.loads(line)["features"])
        for line in (made.folder / "ordinary-other.jsonl").read_text().splitlines()
    ]
    after = [unpacked(text) for record in records.values() for text in record["features"]]
    assert rows["all"].clip_fid == pytest.approx(frechet(after, other), rel=1e-3, abs=1e-3)


def test_a_method_that_refuses_a_suspect_has_no_distance() -> None:
    """It depends on the number of images, and those of that suspect are missing."""
    numbers = np.random.default_rng(0).normal(size=(12, 3))
    features = tuple(packed(torch.tensor(row, dtype=torch.float32)) for row in numbers)
    other = torch.tensor(numbers[::-1] + 1, dtype=torch.float32)
    prompts = {0: Prompt("a"), 4: Prompt("b")}
    drawn = {
        index: DrawnRecord(
            prompt=each.text, method="m", strength=1.0, features=features, images=1, seconds=1.0
        )
        for index, each in prompts.items()
    }
    assert method_rows(prompts, drawn, drawn, other)[0].clip_fid is not None
    drawn[4] = DrawnRecord(prompt="b", method="m", strength=1.0, refused="no such layer")
    assert method_rows(prompts, drawn, drawn, other)[0].clip_fid is None


def unpacked(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), np.float32).astype(np.float64)


def frechet(first: list[Any], second: list[Any]) -> float:
    """The distance of two Gaussians, by a matrix root."""
    a, b = np.stack(first), np.stack(second)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(one @ two).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * root))


def test_the_unedited_model_copies_and_changes_nothing(made: Made) -> None:
    row = made.comparison.of_group("all")[0]
    assert (row.method, row.copies.copies, row.changed) == ("none", 6, 0)
    assert row.draw_ratio == 1
    assert made.comparison.of_group("natural")[0].copy == pytest.approx(1, abs=1e-3)
    assert (made.comparison.confirmed, made.comparison.suspects) == (2, 3)


def test_images_are_drawn_under_the_method(made: Made) -> None:
    """The suspect's from its seeds, and every second ordinary caption, for the second suspect."""
    record = records_of(made.folder, "random-tokens", 4.0)[1]
    run, model = Run.load(made.folder), Model(made.pipe)
    seeds = list(run.records("before")[1]["seeds"])
    ordinary = [run.records("ordinary-before")[number] for number in (1, 3)]
    captions = [each["caption"] for each in ordinary]
    assert captions == [CAPTIONS.test[1], CAPTIONS.test[3]]
    change: Any = chosen_methods("random-tokens=4")[0]
    images = [
        image
        for (image,) in generate_each(
            model,
            [TEXTS[1]] * 3 + captions,
            [change] * 5,
            settings=replace(SETTINGS.generation, images=1),
            seeds=[*seeds, *(each["seed"] for each in ordinary)],
        )
    ]
    look = Pixels()
    reference = look([read_image(made.suspects[1].images[0])])
    scores = (look(images[:3]) @ reference.T)[:, 0].tolist()
    assert record["values"]["sscd-orig"] == pytest.approx(scores, abs=1e-4)
    before = np.stack([unpacked(each["embedding"]) for each in ordinary])
    similarity = (look(images[3:]).double().numpy() * before).sum(1)
    assert record["similarity"] == pytest.approx(similarity.tolist(), abs=1e-4)
    aligned = Colours().alignment(Colours().features(images[3:]), captions).tolist()
    assert record["alignment"] == pytest.approx(aligned, abs=1e-4)


def test_localization_is_part_of_fitting(made: Made) -> None:
    localized = lines_of(made.folder, "localizations-complete")
    records = records_of(made.folder, "neurons", 1.0)
    assert [line["index"] for line in localized] == [0, 1]
    assert all(records[line["index"]]["fit_seconds"] > line["seconds"] for line in localized)


def test_what_does_not_work_is_listed_with_its_reason(made: Made) -> None:
    (refusing,) = (row for row in made.comparison.detectors if row.name == "refusing")
    assert "has no such thing" in refusing.refused
    assert not refusing.groups
    everywhere, natural, planted = (
        row for row in made.comparison.methods if row.method == "unable"
    )
    assert (everywhere.refused, natural.refused, planted.refused) == (1, 0, 1)
    assert everywhere.copies.seeds == 3
    assert "unable: this model" in planted.reason
    assert planted.copy_rate is None


def test_the_same_call_computes_nothing_again(
    again: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_drawn, "generate_each", None)
    monkeypatch.setattr("unmemorize.comparison._scores.Trace", None)
    result, run = compare(again.pipe, again.folder, again.suspects, again.inputs)
    assert result == again.comparison
    assert Comparison.load(run) == result
    assert "rests on images of 10 ordinary captions" in caplog.text  # 5 % need 19


def test_a_killed_run_does_only_what_is_missing(
    again: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (
        path for path in again.folder.glob("method-random-tokens-*.jsonl")
        if '"strength": 4.0' in path.read_text()
    )  # fmt: skip
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:50])  # as a killed process leaves it
    (scores,) = again.folder.glob("detector-noise-magnitude-*.jsonl")
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    drawn: list[list[str]] = []

    def draw(model: Model, prompts: Any, *rest: Any, **options: Any) -> Any:
        drawn.append(list(prompts))
        return generate_each(model, prompts, *rest, **options)

    monkeypatch.setattr(_drawn, "generate_each", draw)
    result, _ = compare(again.pipe, again.folder, again.suspects, again.inputs)
    assert drawn == [[TEXTS[1]] * 3 + [CAPTIONS.test[1], CAPTIONS.test[3]]]
    assert untimed(result) == untimed(again.comparison)


def untimed(comparison: Comparison) -> Comparison:
    """The same without wall times."""
    return replace(
        comparison,
        detectors=tuple(replace(row, seconds=0.0) for row in comparison.detectors),
        methods=tuple(
            replace(row, fit_seconds=None, draw_ratio=None) for row in comparison.methods
        ),
    )


def test_shards_share_the_work(made: Made, tmp_path: Path) -> None:
    """A shard does its part of every stage that it can begin, then says what others have left."""
    parts = DETECTORS[:1], METHODS[:1]
    calls = 0
    for number in (1, 2) * 4:
        execution = Execution(shard=Shard(number, 2))
        calls += 1
        try:
            result, _ = compare(
                made.pipe, tmp_path / "run", made.suspects, made.inputs,
                detectors=parts[0], methods=parts[1], execution=execution,
            )  # fmt: skip
        except UnfinishedError:
            continue
        break
    assert calls in range(3, 8)
    whole = untimed(made.comparison)
    names = {row.method for row in result.methods}
    strengths = {row.strength for row in result.methods}
    assert untimed(result).detectors == whole.detectors[:1]
    assert untimed(result).methods == tuple(
        row for row in whole.methods if row.method in names and row.strength in strengths
    )


def test_a_comparison_that_takes_more_is_not_finished(again: Made) -> None:
    """What is on record makes the tables again, and leaves them where nothing is missing."""
    kept = again.folder / "comparison.json"
    detectors, methods = DETECTORS[:1], METHODS[:1]
    seen: list[bool] = []

    @contextmanager
    def announce(_title: str) -> Iterator[Progress]:
        yield lambda *_: seen.append(kept.exists())

    def go(*more: Any) -> None:
        compare(
            again.pipe, again.folder, again.suspects, again.inputs,
            detectors=detectors, methods=(*methods, *more), announce=announce,
        )  # fmt: skip

    go()
    assert all(seen)
    seen.clear()
    go(chosen_methods("random-tokens=3")[0])
    assert seen[0]
    assert not seen[-1]
    assert kept.exists()


def test_a_failing_method_does_not_stop_the_others(
    again: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Any = chosen_methods("pads=0.5")[0]

    def fail(*_: Any) -> Any:
        raise ValueError("out of luck")

    monkeypatch.setattr(type(method), "fit", fail)
    result, _ = compare(
        again.pipe, again.folder, again.suspects, again.inputs, methods=(method, METHODS[0])
    )
    assert result.failed == {"pads 0.5": "ValueError: out of luck"}
    assert {row.method for row in result.methods} == {"none", "random-tokens"}


PACKAGE = """
from dataclasses import dataclass
from typing import ClassVar
from unmemorize.detection import Score
from unmemorize.generation import Plan
from unmemorize.methods import WhileDrawing

class Flat:
    name = "flat"
    def score(self, trace):
        return [Score(value=0.5, samples=0, seeds=(0,)) for _ in range(len(trace))]

@dataclass(frozen=True)
class SmallerNoise(WhileDrawing):
    kind: ClassVar[str] = "smaller-noise"
    grid: ClassVar[tuple[float, ...]] = (0.9, 0.5)
    strength: float = 0.9
    def plan(self, model, drawing):
        return Plan(self.strength * drawing.noise)
"""


@pytest.fixture(name="installed")
def installed_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package that registers a detector and a method."""
    site = tmp_path / "site"
    metadata = site / "others-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "other_methods.py").write_text(PACKAGE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[unmemorize.detectors]\nflat = other_methods:Flat\n"
        "[unmemorize.mitigations]\nsmaller-noise = other_methods:SmallerNoise\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("other_methods", None)


@pytest.mark.usefixtures("installed")
def test_what_other_packages_register_is_compared(again: Made) -> None:
    assert "flat" in [detector.name for detector in chosen_detectors()]
    assert ("smaller-noise", 0.5) in [(each.name, each.strength) for each in chosen_methods()]
    result, _ = compare(
        again.pipe, again.folder, again.suspects, again.inputs,
        detectors=chosen_detectors("flat"), methods=chosen_methods("smaller-noise=0.5"),
    )  # fmt: skip
    assert [row.name for row in result.detectors] == ["flat"]
    assert result.detectors[0].groups["all"].auroc.value == 0.5
    assert ("smaller-noise", 6) in [
        (row.method, row.copies.seeds) for row in result.of_group("all")
    ]


def test_halves_do_not_depend_on_the_order() -> None:
    captions = [f"a {word} cat {number}" for number in range(5) for word in ("red", "old")]
    captions += [f"a house {number}" for number in range(10)]
    halves = ComparisonCaptions.halves(captions)
    assert ComparisonCaptions.halves(captions[::-1]) == halves
    assert sorted(halves.calibration + halves.test) == sorted(captions)
    assert halves.limited(8) == ComparisonCaptions(halves.calibration[:8], halves.test[:8])
    assert halves.limited(None) == halves


def test_lists_of_methods() -> None:
    pads = chosen_methods("pads")
    assert tuple(method.strength for method in pads) == pads[0].grid
    assert [method.strength for method in chosen_methods("pads", grid=False)] == [0.7]
    both = chosen_methods("pads=0.3, pads=0.3,wanda=0.05")
    assert [(method.name, method.strength) for method in both] == [("pads", 0.3), ("wanda", 0.05)]
    assert (chosen_methods("none"), chosen_detectors("none")) == ((), ())
    every = {method.name for method in chosen_methods("all", grid=False)}
    assert every == set(MITIGATIONS.names())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: chosen_detectors("all,dsm"), MitigationError, "'all,dsm': not a list"),
        (lambda: chosen_methods(" "), MitigationError, "not a list"),
        (lambda: chosen_detectors("nobody"), ThresholdError, "'nobody': nothing of this name"),
        (lambda: chosen_methods("pads=many"), MitigationError, "is no number"),
        (lambda: ComparisonCaptions.halves(["a"] * 14), MitigationError, "14 ordinary captions"),
        (
            lambda: ComparisonCaptions.halves([f"a cat {n // 2}" for n in range(40)]),
            MitigationError,
            "among the ordinary captions twice",
        ),
        (lambda: ComparisonSettings(images=1000), MitigationError, "images=1000"),
        (lambda: ComparisonSettings(seeds=2), UnmemorizeError, "at least 3 images"),
    ],
)
def test_refusals(call: Any, error: type[UnmemorizeError], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_suspects_known_not_to_be_memorized_are_refused(made: Made, tmp_path: Path) -> None:
    suspects = [Prompt("a dog", group="unmemorized")]
    with pytest.raises(MitigationError, match="'a dog': among the suspects, but its group says"):
        compare(made.pipe, tmp_path / "run", suspects, made.inputs)


def test_suspects_of_the_same_text_are_refused_in_a_run(made: Made, tmp_path: Path) -> None:
    suspects = [Prompt("a suspect"), Prompt("another one"), Prompt("a suspect", "VM")]
    with pytest.raises(MitigationError, match="'a suspect': several suspects of this run"):
        compare(made.pipe, tmp_path / "run", suspects, made.inputs)


def test_suspects_among_the_ordinary_captions_are_refused(made: Made, tmp_path: Path) -> None:
    suspect = Prompt(made.inputs.captions.test[0])
    with pytest.raises(MitigationError, match="among the suspects and among the ordinary captions"):
        compare(made.pipe, tmp_path / "run", [suspect], made.inputs)


@pytest.mark.parametrize(
    ("known", "with_clip", "others"),
    [(True, True, 5), (False, True, 19), (True, False, 0)],
)
def test_the_forecast_counts_the_ordinary_images_that_are_drawn(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
    with_clip: bool,
    others: int,
) -> None:
    """Without training images, agreement of two unedited images of each caption is compared.

    With them, what is compared with others are features of a CLIP.
    """
    monkeypatch.setattr(_forecast, "seconds_per_sample", lambda *_: 0.5)
    suspects, inputs, folder = made.suspects, made.inputs, made.folder
    assert inputs.clip is not None
    if not (known and with_clip):
        suspects = [made.suspects[2] if known else replace(made.suspects[2], images=())]
        inputs = inputs if with_clip else replace(inputs, clip=None)
        methods = chosen_methods("random-tokens=1")
        _, run = compare(
            made.pipe, tmp_path / "run", suspects, inputs, detectors=(), methods=methods
        )
        folder = run.folder
    cost = forecast_comparison(
        Model(made.pipe), SETTINGS, CAPTIONS, suspects, DETECTORS, METHODS[:1], inputs.clip
    )
    files = [folder / f"ordinary-{arm}.jsonl" for arm in ("before", "other")]
    drawn = [len(file.read_text().splitlines()) if file.exists() else 0 for file in files]
    assert drawn == [19, others]
    assert cost.images["ordinary images, unedited"] == sum(drawn)
    assert cost.images["confirmation"] == 3 * len(suspects)


def test_methods_with_neurons_need_statistics(made: Made, tmp_path: Path) -> None:
    inputs = replace(made.inputs, statistics=None)
    with pytest.raises(MitigationError, match="neurons: it needs localized neurons"):
        compare(made.pipe, tmp_path / "run", made.suspects, inputs)


def test_suspects_are_needed(made: Made, tmp_path: Path) -> None:
    with pytest.raises(MitigationError, match="no suspects"):
        compare(made.pipe, tmp_path / "run", [], made.inputs)


def test_statistics_of_another_model_are_refused_before_any_work(
    made: Made, tmp_path: Path
) -> None:
    assert made.inputs.statistics is not None
    foreign = replace(made.inputs.statistics, fingerprint="v2-other")
    inputs = replace(made.inputs, statistics=foreign)
    with pytest.raises(StatisticsError, match="another model"):
        compare(made.pipe, tmp_path / "run", made.suspects, inputs)
    assert not kinds_in(tmp_path / "run")


def test_a_comparison_goes_on_with_its_own_model_only(made: Made) -> None:
    other = make_pipeline()
    torch.nn.init.zeros_(other.unet.conv_out.weight)
    with pytest.raises(RunError, match="which is not the model given"):
        compare_all(made.folder, other, made.inputs, detectors=DETECTORS)


def test_no_method_is_called_like_the_unedited_model(made: Made, tmp_path: Path) -> None:
    """Its images would pass for those that all others are compared with."""

    class Unnamed(RandomTokens):
        kind = "none"

    with pytest.raises(MitigationError, match="none: tables call the unedited model so"):
        compare(
            made.pipe, tmp_path / "run", made.suspects, made.inputs, methods=[Unnamed(strength=1.0)]
        )


def test_other_captions_are_another_run(again: Made) -> None:
    captions = ComparisonCaptions(CAPTIONS.test, CAPTIONS.calibration)
    inputs = replace(again.inputs, captions=captions)
    with pytest.raises(UnmemorizeError, match="captions"):
        compare(again.pipe, again.folder, again.suspects, inputs)


def test_the_table_has_every_row(made: Made) -> None:
    text = (made.folder / "comparison.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    methods = [row for row in rows if row["part"] == "method"]
    assert len(methods) == len(made.comparison.methods) == 15
    for line, row in zip(methods, made.comparison.methods, strict=True):
        assert (line["name"], float(line["strength"])) == (row.method, row.strength)
        assert (line["group"], int(line["copies"])) == (row.group, row.copies.copies)
        assert int(line["changed"]) == row.changed
    magnitude = [row for row in rows if row["name"] == "noise-magnitude"]
    assert [row["group"] for row in magnitude] == ["all", *dict.fromkeys(GROUPS)]
    detector = made.comparison.detectors[0]
    assert float(magnitude[1]["auroc"]) == detector.groups["natural"].auroc.value
    interval = tuple(float(magnitude[1][f"false_alarms_{end}"]) for end in ("low", "high"))
    assert interval == detector.false_alarm_interval
    assert "has no such thing" in next(row["reason"] for row in rows if row["name"] == "refusing")


def test_the_page_marks_published_values(made: Made) -> None:
    page = write_comparison(Run.load(made.folder)).read_text()
    ours, published = page.split('<section class="published">')
    assert "(published)" not in ours
    names = [value.name for value in made.comparison.published]
    assert set(names) == {"none", "random-tokens", "noise-magnitude", "anisotropy"}
    assert published.count("(published)") == len(names) == 7
    assert "measured or reported by others" in published
    assert ".published, .published * { color: var(--soft)" in ours
    assert not re.findall(r"(?:src|href)=.https?:|url\(http", page)
    assert page.count("<svg") == 2
    assert "refusing" in ours
    assert "known construction" not in ours


def test_values_that_are_known_second_hand_are_marked() -> None:
    """The others are those that their authors report, as read there."""
    assert {(value.name, value.source) for value in PUBLISHED if not value.by_others} == {
        ("seed-similarity", "Hintersdorf et al. 2024"),
        ("noise-magnitude", "Wen et al. 2024"),
        ("dsm", "ICML 2026 submission"),
        ("hessian-difference", "ICML 2026 submission"),
        ("none", "Hintersdorf et al. 2024, table 1"),
        ("neurons-greedy", "Hintersdorf et al. 2024, table 1"),
        ("noise-sample", "Han et al. 2025"),
    }


def test_the_terminal_shows_the_same(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    with_failure = replace(made.comparison, planted=True, failed={"pads 0.5": "out of luck"})
    _print_comparison(with_failure)
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(r"bounds false alarms at (9\.1|11\.2) % it finds \d of 3", out)  # 1/11, 1/9
    assert "2 of 3 suspects are confirmed" in out
    assert "These suspects were planted" in out
    assert "refusing: " in out
    assert "pads 0.5: failed (out of luck)" in out
    methods, published = out.split("Published values, of other models")
    assert "Methods, natural" in methods
    assert "random-tokens" in methods
    assert "seed-similarity" not in out
    assert "0.976" not in methods
    assert "noise-magnitude" in published


def test_upper_bounds_are_rounded_up(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = made.comparison.methods
    comparison = replace(made.comparison, methods=(replace(first, bound=0.03841), *others))
    _print_comparison(comparison)
    assert " 3.9 % " in capsys.readouterr().out
    run = Run.load(made.folder)
    result = run.folder / "comparison.json"
    before = result.read_bytes()
    try:
        run.write(result.name, json.dumps(comparison.to_json()))
        assert "3.9&nbsp;%" in write_comparison(run).read_text()
    finally:
        result.write_bytes(before)


def test_the_page_of_the_docs_comes_from_records(made: Made, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    committed = (root / "docs" / "compare.md").read_text(encoding="utf-8")
    assert committed == compare_page.page(root / compare_page.RECORDS)
    run, whole = Run.load(made.folder), made.comparison
    nothing: Any = {"detectors": (), "methods": (), "confirmed": None}
    detector = replace(whole, **{**nothing, "detectors": whole.detectors[:1]})
    benchmark.write(tmp_path, "noise-magnitude", detector, run)
    for method in ("random-tokens", "neurons"):
        rows = tuple(row for row in whole.methods if row.method in ("none", method))
        part = replace(whole, detectors=(), methods=rows)
        benchmark.write(tmp_path, method, part, run)
    record = json.loads((tmp_path / "random-tokens.json").read_text())
    kept = {line["strength"]: line for lines in record["scores"].values() for line in lines}
    scores = records_of(made.folder, "random-tokens", 4.0)[1]["scores"]
    assert kept[4.0]["scores"] == pytest.approx(scores, rel=1e-6)
    assert "features" not in kept[4.0]
    text = compare_page.page(tmp_path)
    assert "no numbers here yet" not in text
    found = whole.detectors[0]
    areas = [found.groups[group].auroc for group in ("all", "natural")]
    cells = " | ".join(map(str, (*areas, found.groups["all"].tpr)))
    assert f"| `noise-magnitude` | {cells} | {found.groups['all'].found} of 3 |" in text
    assert f" | {found.false_alarms} of 10 | 1 | 1 |" in text
    others = {(row.method, row.strength): row for row in whole.of_group("planted")}
    everything = {(row.method, row.strength): row for row in whole.of_group("all")}
    for row in whole.of_group("natural"):
        if row.method != "unable":
            other, every = (each[row.method, row.strength] for each in (others, everything))
            assert row.bound is not None
            strength = "" if row.method == "none" else f"{row.strength:g}"
            start = f"| `{row.method}` | {strength} | {row.copies.copies} of 3 | "
            bound = math.ceil(1000 * row.bound) / 10  # what is printed must be true
            start += f"{bound:.1f} % | {other.copies.copies} of 3 | {row.copy:.2f} |"
            masked = "" if row.masked is None else f"{row.masked:.2f}"
            start += f" {row.copy_worst:.2f} | {masked} | {row.diversity:.2f} |"
            (line,) = [line for line in text.splitlines() if line.startswith(start)]
            assert f"| {every.changed} of 5 |" in line
    defaults, grid = text.split("### Other strengths")
    assert defaults.count("| `none` |") == 1
    assert "| `random-tokens` | 4 |" in defaults
    assert "| `random-tokens` | 1 |" in grid
    assert "`random-tokens` (10)" in grid.split("Not measured yet")[1]
    assert "`neurons` (0.5, 1.25, 1.5, 2)" in grid
    picture = tmp_path / "methods.png"
    comparison, _ = compare_page.joined(tmp_path)
    assert comparison is not None
    compare_page.draw(comparison, picture)
    assert picture.stat().st_size > 1000
    assert "*random-tokens (published)*" in text
    settings = json.loads((tmp_path / "neurons.json").read_text())
    settings["made_of"]["settings"]["seeds"] = 7
    (tmp_path / "neurons.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match="other settings"):
        compare_page.page(tmp_path)


def test_curves_follow_the_strengths(made: Made) -> None:
    rows = made.comparison.of_group("all")
    points = points_of(rows, "random-tokens", lambda row: row.alignment)
    chosen = [row for row in rows if row.method == "random-tokens"]
    assert points == [(row.alignment, row.copy_rate) for row in chosen]
    assert [row.strength for row in chosen] == [1, 4]
