"""The records of a run as a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from unmemorize._errors import RunError
from unmemorize._files import atomic_file
from unmemorize._prompts import Prompt
from unmemorize.detection import DETECTIONS, read_detections
from unmemorize.localization import LOCALIZATIONS, Localization
from unmemorize.runs import Run, stream_with_prompts

_ROWS_PER_GROUP = 10_000


def export_parquet(run: Run, path: str | Path) -> int:
    """Write a row per finished prompt: its localization, or its detection in a run without any.

    The columns are ``index, prompt, kind, group, url, score, mean, tau, memorized, seeds``.
    Localizations add ``neurons`` (a list of layer and index), ``initial_score``, ``final_score``
    and ``floor`` (whether theta was exhausted).

    Returns:
        The number of rows.

    Raises:
        RunError: the run has neither, pyarrow is missing, or the file cannot be written.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as problem:
        raise RunError(
            f"{path}: writing Parquet needs pyarrow. pip install 'unmemorize[parquet]'"
        ) from problem
    if run.files(LOCALIZATIONS):
        schema, rows = arrow.schema(_detected(arrow) + _localized(arrow)), _localizations(run)
    elif run.files(DETECTIONS):
        schema, rows = arrow.schema(_detected(arrow)), _detections(run)
    else:
        raise RunError(
            f"{run.folder}: there are neither detections nor localizations in it. "
            "Run detect or localize first."
        )
    count = 0
    with atomic_file(Path(path), RunError) as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS_PER_GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
            count += len(group)
    return count


def _detected(arrow: Any) -> list[tuple[str, Any]]:
    text, number = arrow.string(), arrow.float64()
    return [
        ("index", arrow.int64()),
        ("prompt", text),
        ("kind", text),
        ("group", text),
        ("url", text),
        ("score", number),
        ("mean", number),
        ("tau", number),
        ("memorized", arrow.bool_()),
        ("seeds", arrow.int64()),
    ]


def _localized(arrow: Any) -> list[tuple[str, Any]]:
    neuron = arrow.struct([("layer", arrow.string()), ("index", arrow.int64())])
    return [
        ("neurons", arrow.list_(neuron)),
        ("initial_score", arrow.float64()),
        ("final_score", arrow.float64()),
        ("floor", arrow.bool_()),
    ]


def _detections(run: Run) -> Iterator[dict[str, Any]]:
    for index, prompt, detection in read_detections(run):
        yield {
            **_of_prompt(index, prompt, detection.prompt, detection.group),
            "score": detection.score,
            "mean": detection.mean,
            "tau": detection.tau,
            "memorized": detection.memorized,
            "seeds": detection.seeds,
        }


def _localizations(run: Run) -> Iterator[dict[str, Any]]:
    for index, prompt, content in stream_with_prompts(run, LOCALIZATIONS):
        record = Localization.from_json(content)
        detection = record.detection
        yield {
            **_of_prompt(index, prompt, record.prompt, record.group),
            "score": detection.score if detection else None,
            "mean": detection.mean if detection else None,
            "tau": detection.tau if detection else None,
            "memorized": record.memorized,
            "seeds": detection.seeds if detection else None,
            "neurons": [{"layer": layer, "index": neuron} for layer, neuron in record.neurons],
            "initial_score": record.initial_score,
            "final_score": record.score,
            "floor": record.theta_exhausted,
        }


def _of_prompt(index: int, prompt: Prompt, text: str, group: str) -> dict[str, Any]:
    return {"index": index, "prompt": text, "kind": prompt.kind, "group": group, "url": prompt.url}
