from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import AnyRun
from unmemorize import Run, RunError
from unmemorize._files import to_json
from unmemorize.metrics import PromptMetrics, References, read_metrics
from unmemorize.runs import Inputs, StoredImage

FILES = tuple(
    StoredImage(path=f"../{name}", absolute=f"/x/{name}", sha256="") for name in ("a.png", "b.png")
)
RECORD = PromptMetrics(
    values={"sscd-orig": (0.9, 0.1, 0.4, 0.2), "d-sscd": 0.5, "a-clip": (0.7, -0.3, 0.1)},
    references=References(used=2, missing=("a.png",), files=FILES),
    originals=("00000_00.png", "00000_01.png"),
)


def test_a_prompt_is_the_median_over_its_seeds() -> None:
    assert RECORD.median("sscd-orig") == pytest.approx(0.3)
    assert RECORD.median("a-clip") == 0.1
    assert RECORD.median("d-sscd") == 0.5


def test_the_highest_seed_is_the_worst_copy() -> None:
    assert RECORD.highest("sscd-orig") == 0.9
    assert RECORD.highest("a-clip") == 0.7
    assert RECORD.highest("d-sscd") == 0.5


def test_a_metric_that_does_not_apply_has_no_value() -> None:
    assert RECORD.seeds("masked-copy") == ()
    assert RECORD.median("masked-copy") is None
    assert RECORD.highest("masked-copy") is None


@pytest.fixture
def run(tmp_path: Path) -> Run:
    inputs = Inputs(fingerprint="f")
    return Run.open(tmp_path / "run", AnyRun(), inputs=inputs, model="m", items=2)


def test_records_are_read_back(run: Run) -> None:
    plain = PromptMetrics(values={})
    for index, record in enumerate((RECORD, plain)):
        run.append("metrics", index, json.loads(json.dumps(to_json(record))))
    assert read_metrics(run) == {0: RECORD, 1: plain}


@pytest.mark.parametrize("values", [{"sscd-orig": "0.9"}, {"sscd-orig": ["0.9"]}, [0.9], None])
def test_damaged_records_are_refused(run: Run, values: object) -> None:
    run.append("metrics", 4, {"values": values, "references": None})
    with pytest.raises(RunError, match=r"damaged record of prompt 4 .*and evaluate again"):
        read_metrics(run)
