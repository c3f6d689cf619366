"""The records of a run as a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from unmemorize._errors import RunError
from unmemorize._files import atomic_file
from unmemorize.detection import DETECTIONS, read_detections
from unmemorize.localization import LOCALIZATIONS, Localization
from unmemorize.runs import Run, stream_prompts

_ROWS = 10_000
"""In a row group."""


def export_parquet(run: Run, path: str | Path) -> int:
    """Write the localizations of a run, or its detections where nothing is localized, as a Parquet file with a row per finished prompt.

    The columns are ``index, prompt, kind, group, url, score, mean, tau, memorized, seeds``, and of localizations ``neurons`` (a list of
    layer and index), ``initial_score, final_score, floor`` as well.

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
    localized = bool(run.files(LOCALIZATIONS))
    if not localized and not run.files(DETECTIONS):
        raise RunError(
            f"{run.folder}: there are neither detections nor localizations in it. Run detect or localize first."
        )
    text, number = arrow.string(), arrow.float64()
    columns = [
        ("index", arrow.int64()),
        *((name, text) for name in ("prompt", "kind", "group", "url")),
    ]
    columns += [
        *((name, number) for name in ("score", "mean", "tau")),
        ("memorized", arrow.bool_()),
        ("seeds", arrow.int64()),
    ]
    if localized:
        neuron = arrow.struct([("layer", text), ("index", arrow.int64())])
        columns += [
            ("neurons", arrow.list_(neuron)),
            ("initial_score", number),
            ("final_score", number),
            ("floor", arrow.bool_()),
        ]
    schema = arrow.schema(columns)
    rows = _localized(run) if localized else _detected(run)
    count = 0
    with atomic_file(Path(path), RunError) as file, parquet.ParquetWriter(file, schema) as writer:
        while part := list(islice(rows, _ROWS)):
            writer.write_table(arrow.Table.from_pylist(part, schema))
            count += len(part)
    return count


def _detected(run: Run) -> Iterator[dict[str, Any]]:
    for index, prompt, found in read_detections(run):
        yield {
            "index": index,
            "prompt": found.prompt,
            "kind": prompt.kind,
            "group": found.group,
            "url": prompt.url,
            "score": found.score,
            "mean": found.mean,
            "tau": found.tau,
            "memorized": found.memorized,
            "seeds": found.seeds,
        }


def _localized(run: Run) -> Iterator[dict[str, Any]]:
    records = run.stream(LOCALIZATIONS)
    index, record = next(records, (-1, {}))
    for number, prompt in enumerate(stream_prompts(run)):
        if number != index:
            continue
        found = Localization.from_json(record)
        detection = found.detection
        yield {
            "index": index,
            "prompt": found.prompt,
            "kind": prompt.kind,
            "group": found.group,
            "url": prompt.url,
            "score": detection.score if detection else None,
            "mean": detection.mean if detection else None,
            "tau": detection.tau if detection else None,
            "memorized": found.memorized,
            "seeds": detection.seeds if detection else None,
            "neurons": [{"layer": layer, "index": neuron} for layer, neuron in found.neurons],
            "initial_score": found.initial_score,
            "final_score": found.score,
            "floor": found.theta_exhausted,
        }
        index, record = next(records, (-1, {}))
