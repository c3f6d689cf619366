"""The table against medians and deviations that NumPy and SciPy compute from the same scores."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, median_abs_deviation

from records import LAYER
from scored_run import NEURONS, SCORES, scored_run
from unmemorize import Neurons
from unmemorize.metrics import PromptMetrics, QualityRecord, References
from unmemorize.report import read_results
from unmemorize.report._results import Results, SetMetrics
from unmemorize.report._summary import summary_table
from unmemorize.report._table import Cell, Row, Table
from unmemorize.report._truth import precision_recall

COLUMNS = {"overall": (0, 1, 2), "VM": (0, 1), "TM": (2,), "unmemorized": (5,)}
"""The memorized prompts of each column."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read_results(scored_run(tmp_path_factory.mktemp("scored")))


def cells(table: Table, label: str) -> dict[str, Cell]:
    (row,) = [row for row in table.rows if row.label == label]
    return dict(zip(table.columns, row.cells, strict=True))


def figures(table: Table, label: str) -> list[str]:
    return [cell.figure for cell in cells(table, label).values()]


@pytest.mark.parametrize("set_name", ["original", "refined", "random-refined"])
@pytest.mark.parametrize(
    ("term", "key", "of_seeds"),
    [
        ("SSCD_Orig", "sscd-orig", np.median),
        ("SSCD_Orig, worst seed", "sscd-orig", np.max),
        ("masked copy score", "masked-copy", np.median),
        ("SSCD_Gen", "sscd-gen", np.median),
        ("D_SSCD", "d-sscd", np.median),
        ("A_CLIP", "a-clip", np.median),
    ],
)
def test_metrics_are_medians_over_prompts_of_medians_over_seeds(
    results: Results, set_name: str, term: str, key: str, of_seeds: Callable[[Any], float]
) -> None:
    table = summary_table(results)
    state = {"original": "before", "refined": "neurons off"}.get(set_name, "random neurons off")
    measured = [index for index in SCORES[set_name] if key in SCORES[set_name][index]]
    if not measured or (term, set_name) == ("SSCD_Gen", "original"):
        assert f"{term}, {state}" not in [row.label for row in table.rows]
        return
    for column, indices in COLUMNS.items():
        cell = cells(table, f"{term}, {state}")[column]
        values = [of_seeds(SCORES[set_name][index][key]) for index in indices if index in measured]
        if not values:
            assert cell == Cell()
            continue
        assert cell.count == len(values)
        assert cell.value == pytest.approx(np.median(values))
        assert cell.spread == pytest.approx(median_abs_deviation(values))
        assert cell.value is not None
        assert cell.low is not None
        assert cell.high is not None
        rounding = 1e-12  # percentiles are interpolated
        assert min(values) - rounding <= cell.low <= cell.value + rounding
        assert cell.value - rounding <= cell.high <= max(values) + rounding


def test_shares_count_the_localized_prompts_of_their_group(results: Results) -> None:
    table = summary_table(results)
    assert table.columns == ("overall", "VM", "TM", "unmemorized")
    assert figures(table, "detected as memorized") == ["3 of 4", "2 of 3", "1 of 1", "1 of 2"]
    assert figures(table, "theta exhausted") == ["2 of 3", "1 of 2", "1 of 1", ""]
    detected = cells(table, "detected as memorized")["overall"]
    interval = binomtest(3, 4).proportion_ci(method="wilson")
    assert (detected.low, detected.high) == pytest.approx((interval.low, interval.high))
    assert detected.interval == "30% to 95%"


def test_neurons_and_seconds(results: Results) -> None:
    table = summary_table(results)
    for label in ("neurons, refined", "neurons, initial selection"):
        assert figures(table, label) == [
            "3.00 ± 2.00 (n=3)",
            "4.50 ± 1.50 (n=2)",
            "1.00 ± 0.00 (n=1)",
            "12.0 ± 0.00 (n=1)",
        ]
    assert cells(table, "neurons, refined")["VM"].interval == "3.00 to 6.00"
    assert figures(table, "seconds per prompt") == [
        "2.50 ± 1.00 (n=4)",
        "2.00 ± 1.00 (n=3)",
        "3.00 ± 0.00 (n=1)",
        "5.50 ± 0.50 (n=2)",
    ]


def test_initial_and_refined_neurons_are_told_apart(results: Results) -> None:
    record = replace(results.localizations[0], initial=Neurons({LAYER: range(8)}))
    table = summary_table(replace(results, localizations={0: record}))
    assert figures(table, "neurons, initial selection")[0] == "8.00 ± 0.00 (n=1)"
    assert figures(table, "neurons, refined")[0] == "3.00 ± 0.00 (n=1)"


def test_known_neurons(results: Results) -> None:
    truth = {
        "prompt zero": Neurons({LAYER: [1, 2, 8, 9, 10]}),
        "prompt one": NEURONS[1],
        "prompt two": Neurons(),
    }
    table = summary_table(results, truth)
    assert figures(table, "precision, known neurons")[0] == "0.83 ± 0.17 (n=2)"
    assert figures(table, "recall, known neurons")[0] == "0.70 ± 0.30 (n=2)"
    assert figures(table, "recall, known neurons")[2:] == ["", ""]
    assert "known neurons" not in str([row.label for row in summary_table(results).rows])


def test_precision_and_recall() -> None:
    assert precision_recall(Neurons({"a": [1, 2]}), Neurons({"a": [2, 3, 4, 5]})) == (0.5, 0.25)
    assert precision_recall(Neurons(), Neurons({"a": [2]})) == (0.0, 0.0)


def test_rows_name_what_measured_them(results: Results) -> None:
    by = {row.label: row.by for row in summary_table(results).rows}
    assert by["SSCD_Orig, neurons off"] == "a descriptor (sha256 111111111111)"
    assert by["A_CLIP, neurons off"] == "a clip (sha256 222222222222)"
    assert by["masked copy score, neurons off"] == "pixels of the layout"
    assert by["neurons, refined"] == ""


def other_prompts(results: Results, **changes: Any) -> Results:
    """The results with images on other prompts, too."""
    scores = {0: (0.3, 0.9), 1: (0.7, 0.9)}
    records = {
        index: PromptMetrics(values={"sscd-gen": values}) for index, values in scores.items()
    }
    metrics = SetMetrics(
        name="refined", on="captions", prompts=records, measured=results.metrics[0].measured
    )
    return replace(results, metrics=[*results.metrics, metrics], **changes)


def test_other_prompts_have_a_column_of_their_own(results: Results) -> None:
    quality = QualityRecord(
        set="refined-on-captions",
        on="captions",
        against="photos",
        kind="FID",
        extractor="inception",
        extractor_sha256="3" * 64,
        fid=12.5,
        kid=0.0125,
        kid_std=0.002,
        generated=40,
        real=50,
    )
    table = summary_table(other_prompts(results, quality=[quality]))
    assert table.columns[-1] == "captions"
    assert figures(table, "SSCD_Gen, neurons off")[-1] == "0.70 ± 0.10 (n=2)"
    assert figures(table, "SSCD_Gen, neurons off")[0] == "0.36 ± 0.14 (n=3)"
    assert figures(table, "FID to photos, neurons off") == [*4 * [""], "12.5 (n=40)"]
    kid = figures(table, "1000 KID on the features of FID to photos, neurons off")
    assert kid == [*4 * [""], "12.5 ± 2.00 (n=40)"]
    assert any(note.startswith("FID is biased") for note in table.notes)
    assert any("earlier version" in note and "FID of refined-on" in note for note in table.notes)
    named = replace(quality, folder="/a/photos", images="i")
    table = summary_table(other_prompts(results, quality=[named]))
    assert figures(table, "FID to photos, neurons off")[-1] == "12.5 (n=40)"
    assert not any("earlier version" in note for note in table.notes)
    both = [named, replace(named, folder="/b/photos", fid=3.0)]
    table = summary_table(other_prompts(results, quality=both))
    assert figures(table, "FID to /a/photos, neurons off")[-1] == "12.5 (n=40)"
    assert figures(table, "FID to /b/photos, neurons off")[-1] == "3.00 (n=40)"
    own = summary_table(replace(results, quality=[replace(quality, set="refined", on="")]))
    assert figures(own, "FID to photos, neurons off") == ["12.5 (n=40)", *3 * [""]]


def test_sets_with_names_of_their_own_come_last(results: Results) -> None:
    other = replace(results.metrics[0], name="top-10")
    table = summary_table(replace(results, metrics=[*results.metrics, other]))
    labels = [row.label for row in table.rows if row.label.startswith("D_SSCD")]
    states = ("before", "neurons off", "random neurons off", "top-10")
    assert labels == [f"D_SSCD, {state}" for state in states]


def test_notes_name_training_images_that_cannot_be_used(results: Results) -> None:
    missing = References(used=0, missing=tuple(f"{number}.png" for number in range(12)))
    unreadable = References(used=0, unreadable=("broken.png",))
    records = {
        0: PromptMetrics(values={}, references=missing),
        1: PromptMetrics(values={}, references=unreadable),
    }
    metrics = replace(results.metrics[0], prompts=records)
    lacking = replace(results, metrics=[metrics, metrics])
    notes = summary_table(lacking).notes
    named = ", ".join(f"{number}.png" for number in range(10))
    assert f"Warning: training images missing: 12 ({named} and 2 more)." in notes
    assert "Warning: training images unreadable: 1 (broken.png)." in notes
    assert not any("training images" in note for note in summary_table(results).notes)
    notes = summary_table(lacking, redact=True).notes
    assert "Warning: training images missing: 12." in notes
    assert "Warning: training images unreadable: 1." in notes


TABLE = Table(
    ("overall", "VM"),
    (
        Row("a share", (Cell.share([1, 2], lambda number: number > 1), Cell())),
        Row("a median", (Cell(), Cell.median([12.0, 14.0, 90.0])), "a network"),
    ),
    ("a note",),
)


def test_a_table_as_json_keeps_every_number() -> None:
    content = json.loads(TABLE.to_json())
    assert (content["columns"], content["notes"]) == (["overall", "VM"], ["a note"])
    share, median = content["rows"]
    assert (share["label"], share["by"], list(share["cells"])) == ("a share", "", ["overall"])
    assert share["cells"]["overall"]["figure"] == "1 of 2"
    assert (median["by"], list(median["cells"])) == ("a network", ["VM"])
    assert median["cells"]["VM"] == {
        "value": 14.0,
        "spread": 2.0,
        "low": 12.0,
        "high": 90.0,
        "hits": None,
        "count": 3,
        "figure": "14.0 ± 2.00 (n=3)",
        "interval": "12.0 to 90.0",
    }


def test_a_table_as_csv_has_a_line_for_each_answer() -> None:
    share, median = csv.DictReader(io.StringIO(TABLE.to_csv()))
    assert (share["measure"], share["group"], share["hits"]) == ("a share", "overall", "1")
    assert median == {
        "measure": "a median",
        "group": "VM",
        "value": "14.0",
        "spread": "2.0",
        "low": "12.0",
        "high": "90.0",
        "hits": "",
        "count": "3",
        "by": "a network",
    }
