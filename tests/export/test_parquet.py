import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from audited import audited_run
from conftest import PROMPTS, planted_pipeline, three_prompts
from mitigated_run import FRESH, SEEDS, mitigated_run
from tasks import AnyRun
from unmemorize import (
    Comparison,
    Model,
    Run,
    RunError,
    arrow_table,
    calibrate_threshold,
    read_prompts,
)
from unmemorize.comparison import DetectorRow, MethodRow
from unmemorize.detection import DetectionRun, detect_all, read_detections
from unmemorize.export import export_parquet
from unmemorize.localization import read_localizations
from unmemorize.runs import Inputs, open_run

parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = [
    "index",
    "prompt",
    "kind",
    "group",
    "url",
    "score",
    "mean",
    "tau",
    "memorized",
    "seeds",
]


@dataclass(frozen=True)
class ComparedRun:
    """Settings that name a comparison."""

    kind: ClassVar[str] = "comparison"


LOCALIZED = ["neurons", "initial_score", "final_score", "theta_exhausted"]


def test_localizations(run: Run, tmp_path: Path) -> None:
    assert export_parquet(run, tmp_path / "l.parquet") == 3
    table = parquet.read_table(tmp_path / "l.parquet")
    assert table.column_names == COLUMNS + LOCALIZED
    rows = table.to_pylist()
    prompts = three_prompts(tmp_path)
    assert [row["prompt"] for row in rows] == [prompt.text for prompt in prompts]
    assert [row["kind"] for row in rows] == [prompt.kind for prompt in prompts]
    assert [row["memorized"] for row in rows] == [False, True, False]
    assert rows[1]["neurons"][0]["index"] == 3
    assert read_prompts(tmp_path / "l.parquet")[1].text == prompts[1].text
    for row, record in zip(rows, read_localizations(run).values(), strict=True):
        assert record.detection is not None
        assert row["score"] == record.detection.score
        assert row["tau"] == record.detection.tau
        assert (row["initial_score"], row["final_score"]) == (record.initial_score, record.score)
        assert row["theta_exhausted"] == record.theta_exhausted
        assert [(neuron["layer"], neuron["index"]) for neuron in row["neurons"]] == list(
            record.neurons
        )


def test_prompts_that_are_not_localized_yet_have_no_row(run: Run, tmp_path: Path) -> None:
    records = run.folder / "localizations.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[1:]))
    assert export_parquet(Run.load(run.folder), tmp_path / "l.parquet") == 2
    rows = parquet.read_table(tmp_path / "l.parquet").to_pylist()
    assert [row["index"] for row in rows] == [1, 2]


def test_detections(tmp_path: Path) -> None:
    model, prompts = Model(planted_pipeline()), three_prompts(tmp_path)
    threshold = calibrate_threshold(model, PROMPTS, detector="seed-similarity")
    run = open_run(tmp_path / "run", model, prompts, DetectionRun.of(threshold))
    with pytest.raises(RunError, match="neither detections nor localizations"):
        export_parquet(run, tmp_path / "d.parquet")
    detect_all(run, model, threshold)
    assert export_parquet(run, tmp_path / "d.parquet") == 3
    table = parquet.read_table(tmp_path / "d.parquet")
    assert table.column_names == COLUMNS
    for row, (index, prompt, detection) in zip(
        table.to_pylist(), read_detections(run), strict=True
    ):
        assert (row["index"], row["prompt"], row["kind"]) == (index, prompt.text, prompt.kind)
        assert (row["score"], row["mean"]) == (detection.score, detection.mean)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs(fingerprint="f")
    run = Run.open(tmp_path / "run", AnyRun(), inputs=inputs, model="m", items=0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RunError, match=r"pip install 'unmemorize\[parquet\]'"):
        export_parquet(run, tmp_path / "d.parquet")


def test_verdicts_of_a_mitigation(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    table = arrow_table(run.folder)
    assert table.equals(arrow_table(run))
    rows = table.to_pylist()
    statuses = ["not removed", "removed", "removed", "not confirmed", "not tested"]
    assert [row["status"] for row in rows] == statuses
    assert [row["copies_before"] for row in rows[:4]] == [3, 3, 3, 0]
    assert [row["images_before"] for row in rows] == [SEEDS] * 4 + [None]
    assert [(row["copies_after"], row["images_after"]) for row in rows[:3]] == [
        (6, FRESH),
        (0, FRESH),
        (0, FRESH),
    ]
    assert rows[0]["worst_after"] == 0.62
    frame = table.to_pandas()
    assert list(frame["prompt"]) == [row["prompt"] for row in rows]


def test_an_audit_has_a_row_for_each_arm_and_attack(tmp_path: Path) -> None:
    rows = arrow_table(audited_run(tmp_path / "run", None)).to_pylist()
    assert [(row["arm"], row["attack"], row["score"]) for row in rows] == [
        ("edited", "L4", 0.6),
        ("never-trained", "L4", 0.4),
    ]
    assert [row["triggered_at"] for row in rows] == [25, None]


def test_a_comparison_has_the_rows_of_its_csv(tmp_path: Path) -> None:
    inputs = Inputs(fingerprint="f")
    run = Run.open(tmp_path / "run", ComparedRun(), inputs=inputs, model="m", items=1)
    rows = (MethodRow(method="none", strength=0.0), MethodRow(method="pads", strength=0.7))
    comparison = Comparison(
        model="m",
        planted=False,
        suspects=2,
        confirmed=1,
        detectors=(DetectorRow(name="dsm", refused="no text"),),
        methods=rows,
        failed={},
    )
    run.write("comparison.json", json.dumps(comparison.to_json()))
    table = arrow_table(run)
    read = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [row["name"] for row in table.to_pylist()] == [row["name"] for row in read]
    assert table["strength"].to_pylist() == [None, 0.0, 0.7]
    assert table["reason"].to_pylist() == ["no text", "", ""]
