"""A finished comparison written by hand."""

from __future__ import annotations

import json
from pathlib import Path

from unmemorize import ComparisonSettings, Run
from unmemorize.comparison import Comparison, ComparisonRun, MethodRow
from unmemorize.mitigation import Copies
from unmemorize.runs import Inputs


def compared_run(folder: Path, *, copy: float = 0.2, speed: float = 1.0) -> Run:
    """Write a comparison of one method at two strengths.

    Args:
        folder: the run folder.
        copy: the copy score under the method at its second strength.
        speed: of the machine.
    """
    settings = ComparisonRun(settings=ComparisonSettings(), captions="c", descriptor="d", clip="")
    run = Run.open(folder, settings, inputs=Inputs(fingerprint="f"), model="m", items=2)
    comparison = Comparison(
        model="m",
        planted=False,
        suspects=2,
        confirmed=2,
        detectors=(),
        methods=(
            MethodRow(method="none", strength=0.0, suspects=2, copy=0.9, draw_ratio=1.0),
            _pads(0.5, 0.4, speed),
            _pads(0.7, copy, speed),
        ),
        failed={},
    )
    run.write("comparison.json", json.dumps(comparison.to_json()))
    return run


def _pads(strength: float, copy: float, speed: float) -> MethodRow:
    return MethodRow(
        method="pads",
        strength=strength,
        suspects=2,
        copy=copy,
        copies=Copies(1, 10),
        fit_seconds=3 / speed,
        draw_ratio=1 + 0.1 * speed,
    )
