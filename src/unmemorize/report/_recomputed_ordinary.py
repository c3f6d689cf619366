"""What an edit changes in images of ordinary captions, computed once more from a pack's records."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from unmemorize.report._recomputed_distances import Array, correlation, frechet, kernel_distance
from unmemorize.report._recomputed_records import MitigationRecords
from unmemorize.report._recomputed_values import median, rate, vector

_CHANGED = 0.5
"""Similarity to the image before, below which an image of an ordinary prompt counts as changed."""
_WHOLE_SETS = 1000
"""Images up to which KID compares whole sets of one size. Else it draws subsets, which this module
does not do."""


def side_effects(records: MitigationRecords, control: Mapping[int, Any]) -> dict[str, Any]:
    """Return what the edit, its random control and the candidates of the search change."""
    if not records.edit:
        return {}
    before = records.kind("ordinary-before")
    sample = max(1, records.settings["ordinary_images"] // 5)
    values = _change(records, "ordinary", before, f"ordinary-{records.edit}", len(before))
    if control:
        for outcome in records.result["outcomes"]:
            for file in outcome["files_control"][:1]:
                kind = file.split("/")[0].replace("control-", "ordinary-")
                values |= _change(records, "ordinary_control", before, kind, sample)
    for number, candidate in enumerate(records.result["candidates"]):
        here = f"candidates.{number}"
        digest = candidate["digest"]
        searched, again = records.kind(f"search-{digest}"), records.kind(f"search-{digest}-again")
        values[f"{here}.digest"] = digest
        if f"ordinary-{digest}.jsonl" in records.files:
            kind = f"ordinary-{digest}"
            values |= _change(records, f"{here}.ordinary", before, kind, sample)
        if searched:
            copies = Counter({index: record["copies"] for index, record in searched.items()})
            copies.update({index: record["copies"] for index, record in again.items()})
            values[f"{here}.copying"] = sum(found > 1 for found in copies.values())
    return values


def _change(
    records: MitigationRecords, name: str, before: Mapping[int, Any], kind: str, images: int
) -> dict[str, Any]:
    """Compare images of ordinary captions before and after an edit."""
    after = list(records.kind(kind).items())[:images]
    pairs = _ordinary(records, [(before[number], record) for number, record in after])
    first = np.stack([vector(one["embedding"]) for one, _ in pairs])
    second = np.stack([vector(two["embedding"]) for _, two in pairs])
    similarity = (first * second).sum(1)
    values = rate(f"{name}.changed", int((similarity < _CHANGED).sum()), len(pairs))
    values |= {
        f"{name}.similarity": float(np.sort(similarity)[(len(pairs) - 1) // 2]),
        f"{name}.worst": float(similarity.min()),
    }
    if all(each["file"] in records.files for pair in pairs for each in pair):
        correlations = [
            correlation(*(_pixels(records, each["file"]) for each in pair)) for pair in pairs
        ]
        values[f"{name}.correlation"] = float(np.median(correlations))
    if pairs[0][1]["alignment"] is not None:
        values |= {
            f"{name}.alignment_before": median([one["alignment"] for one, _ in pairs]),
            f"{name}.alignment_after": median([two["alignment"] for _, two in pairs]),
        }
    other = _ordinary(records, [(each,) for each in records.kind("ordinary-other").values()])
    if records.settings["distances"] and other and pairs[0][1]["features"] and len(pairs) > 1:
        unedited = np.stack([vector(record["features"]) for (record,) in other])
        for suffix, side in (("", 1), ("_before", 0)):
            features = np.stack([vector(pair[side]["features"]) for pair in pairs])
            values[f"{name}.clip_fid{suffix}"] = frechet(features, unedited)
            if len(features) == len(unedited) <= _WHOLE_SETS:
                values[f"{name}.kid{suffix}"] = kernel_distance(features, unedited)
    return values


def _ordinary(records: MitigationRecords, images: list[Any]) -> list[Any]:
    """Leave images of memorized prompts out. Earlier versions counted them."""
    confirmed = records.confirmed if records.version > 4 else ()
    memorized = {records.prompts[index]["text"] for index in confirmed}
    return [each for each in images if each[0]["caption"] not in memorized] or images


def _pixels(records: MitigationRecords, name: str) -> Array:
    """Return the pixels of an image, (height, width, 3)."""
    try:
        with Image.open(io.BytesIO(records.files[name]), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"), np.float64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        raise ValueError(f"{name}: cannot be read as a PNG ({problem})") from problem
