from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from colours import Colours, images_of
from unmemorize import ClipAlignment, MetricError
from unmemorize.metrics import (
    METRICS,
    Instrument,
    Instruments,
    PromptImages,
    make_metrics,
    measured,
)

NAMES = ("sscd-orig", "masked-copy", "sscd-gen", "d-sscd", "a-clip", "pixel-correlation")
LABELS = {
    "sscd-orig": "SSCD_Orig",
    "masked-copy": "masked copy score",
    "sscd-gen": "SSCD_Gen",
    "d-sscd": "D_SSCD",
    "a-clip": "A_CLIP",
    "pixel-correlation": "pixel correlation",
}


class Count:
    """A metric of another package."""

    name, label, measured_by = "count", "number of images", Instrument("counting")

    def __init__(self, _instruments: Instruments) -> None: ...

    def __call__(self, images: PromptImages) -> float:
        return float(len(images.generated))


class Misnamed(Count):
    name = "other"


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a package that registers this metric as "count"."""

    def install(metric: str) -> None:
        folder = tmp_path / "counting-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
        entry = f"[unmemorize.metrics]\ncount = {__name__}:{metric}\n"
        (folder / "entry_points.txt").write_text(entry)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_our_metrics_in_the_order_of_summaries() -> None:
    assert METRICS.names() == NAMES
    metrics = make_metrics(Instruments(Colours(), ClipAlignment()))
    assert {name: metric.label for name, metric in metrics.items()} == LABELS
    assert [metric.name for metric in metrics.values()] == list(NAMES)


def test_alignment_needs_a_clip_and_names_it() -> None:
    assert "a-clip" not in make_metrics(Instruments(Colours()))
    clip = ClipAlignment()
    measured_by = make_metrics(Instruments(Colours(), clip))["a-clip"].measured_by
    assert measured_by == Instrument(clip.name, clip.digest)


def test_formulas_have_no_hash() -> None:
    metrics = make_metrics(Instruments(Colours()))
    for name in ("masked-copy", "pixel-correlation"):
        assert metrics[name].measured_by.sha256 == ""
        assert "sha256" not in str(metrics[name].measured_by)


def test_a_metric_of_another_package_is_one_of_ours(register: Any) -> None:
    register("Count")
    metrics = make_metrics(Instruments(Colours()))
    assert list(metrics)[-1] == "count"
    assert metrics["count"](images_of()) == 3.0


def test_a_metric_with_two_names_is_refused(register: Any) -> None:
    register("Misnamed")
    with pytest.raises(MetricError, match=r"count: the metric .* calls itself other"):
        make_metrics(Instruments(Colours()))


@pytest.mark.parametrize("values", [float("nan"), (0.1, float("inf"), 0.2)])
def test_values_that_are_not_finite_are_refused(values: Any) -> None:
    """No record can hold them, and nothing said whose they were."""
    metrics: dict[str, Any] = {"count": lambda _images: values}
    with pytest.raises(MetricError, match=r"count: returns \(.*(nan|inf).*returns None"):
        measured(metrics, images_of())
