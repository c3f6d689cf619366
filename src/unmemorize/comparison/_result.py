"""What a comparison found, as a table and as a file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmemorize._csv_files import CsvWriter
from unmemorize._errors import RunError
from unmemorize._files import from_json, read_json, to_json
from unmemorize._prompts import ALL_GROUPS
from unmemorize.comparison._detectors import DetectorRow
from unmemorize.comparison._methods import MethodRow
from unmemorize.comparison._published import PUBLISHED, Published
from unmemorize.runs import Run

RESULT, TABLE = "comparison.json", "comparison.csv"
"""The files in a run folder."""
SCHEMA = "unmemorize.comparison/1"
_COLUMNS = (
    "part", "name", "strength", "group", "suspects", "auroc", "auroc_low", "auroc_high",
    "tpr_at_1_percent_fpr", "tpr_low", "tpr_high", "level", "rate", "found", "false_alarms",
    "false_alarms_low", "false_alarms_high", "test_captions", "samples",
    "shared", "copy", "copy_worst", "copies", "seeds", "copies_bound",
    "masked", "masked_worst", "d_sscd", "a_clip", "ordinary_images", "changed",
    "ordinary_a_clip", "clip_fid", "fit_seconds", "draw_ratio", "seconds", "refused", "reason",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Detectors and methods, side by side on one model.

    Args:
        model: its name.
        planted: whether the suspects were planted in the bundled model, so methods that know the
            construction have an advantage.
        suspects: how many prompts.
        confirmed: how many of them copy, by their unedited images; None where no method was
            compared.
        detectors: the detectors.
        methods: the unedited model, then the methods, each strength and group in a row of its own.
        failed: by the name of what failed, the error of its first item. The same command tries
            again.
    """

    model: str
    planted: bool
    suspects: int
    confirmed: int | None
    detectors: tuple[DetectorRow, ...]
    methods: tuple[MethodRow, ...]
    failed: dict[str, str]

    @property
    def published(self) -> tuple[Published, ...]:
        """Published values of what was compared, which are of other models."""
        names = {row.name for row in self.detectors} | {row.method for row in self.methods}
        return tuple(value for value in PUBLISHED if value.name in names)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of suspects of which there are rows, without "all"."""
        of_detectors = [group for row in self.detectors for group in row.groups]
        of_methods = [row.group for row in self.methods]
        groups = dict.fromkeys(of_detectors + of_methods)
        return tuple(group for group in groups if group != ALL_GROUPS)

    def of_group(self, group: str) -> tuple[MethodRow, ...]:
        """Return the rows of methods for one group of suspects."""
        return tuple(row for row in self.methods if row.group == group)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "planted": self.planted,
            "suspects": self.suspects,
            "confirmed": self.confirmed,
            "detectors": to_json(self.detectors),
            "methods": to_json(self.methods),
            "failed": self.failed,
        }

    @classmethod
    def load(cls, run: Run | str | Path) -> Comparison:
        """Read the result of a run.

        Raises:
            RunError: the comparison is not finished, or the file is damaged.
        """
        path = Run.of(run).folder / RESULT
        content = read_json(path, RunError, "result of a comparison")
        way_out = "Repeat unmemorize compare; it computes only what is missing."
        if content.pop("schema", None) != SCHEMA:
            raise RunError(f"{path}: not a comparison of schema {SCHEMA}. {way_out}")
        return from_json(cls, content, RunError, f"{path}: damaged", way_out)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows of one table, by column. What does not apply is left out."""
        of_detectors = [line for detector in self.detectors for line in _detector_lines(detector)]
        return of_detectors + [_method_line(method) for method in self.methods]

    def to_csv(self) -> str:
        """Return one table of all rows; cells that do not apply are empty."""
        text = io.StringIO()
        writer = CsvWriter(text)
        writer.row(*_COLUMNS)
        for row in self.rows():
            writer.row(*(row.get(column) for column in _COLUMNS))
        return text.getvalue()


def _detector_lines(row: DetectorRow) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {"part": "detector", "name": row.name, "reason": row.refused}
    if row.refused:
        return [shared]
    low, high = row.false_alarm_interval
    shared |= {
        "level": row.level,
        "rate": row.rate,
        "false_alarms": row.false_alarms,
        "false_alarms_low": low,
        "false_alarms_high": high,
        "test_captions": row.test,
        "samples": row.samples,
        "shared": row.shared,
        "seconds": row.seconds,
    }
    return [
        {
            **shared,
            "group": group,
            "suspects": found.suspects,
            "auroc": found.auroc.value,
            "auroc_low": found.auroc.low,
            "auroc_high": found.auroc.high,
            "tpr_at_1_percent_fpr": found.tpr.value,
            "tpr_low": found.tpr.low,
            "tpr_high": found.tpr.high,
            "found": found.found,
        }
        for group, found in row.groups.items()
    ]


def _method_line(row: MethodRow) -> dict[str, Any]:
    return {
        "part": "method",
        "name": row.method,
        "strength": row.strength,
        "group": row.group,
        "suspects": row.suspects,
        "copy": row.copy,
        "copy_worst": row.copy_worst,
        "copies": row.copies.copies,
        "seeds": row.copies.seeds,
        "copies_bound": row.bound,
        "masked": row.masked,
        "masked_worst": row.masked_worst,
        "d_sscd": row.diversity,
        "a_clip": row.alignment,
        "ordinary_images": row.ordinary,
        "changed": row.changed,
        "ordinary_a_clip": row.ordinary_alignment,
        "clip_fid": row.clip_fid,
        "fit_seconds": row.fit_seconds,
        "draw_ratio": row.draw_ratio,
        "refused": row.refused,
        "reason": row.reason,
    }
