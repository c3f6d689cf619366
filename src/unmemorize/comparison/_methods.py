"""What each method leaves of copies, and what it costs, at each strength."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor

from unmemorize._prompts import ALL_GROUPS, Prompt
from unmemorize.comparison._detectors import groups_of
from unmemorize.comparison._drawn import DrawnRecord
from unmemorize.metrics import quality
from unmemorize.mitigation import CHANGED, Copies, unpacked

CONFIDENCE = 0.95
"""Of the upper bound of a copy rate."""
_COPY, _MASKED, _DIVERSITY, _ALIGNMENT = "sscd-orig", "masked-copy", "d-sscd", "a-clip"


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method at one strength, for one group of suspects. None is what cannot be measured.

    Args:
        method, strength: the method; "none" and 0 for the unedited model.
        group: the suspects.
        suspects: how many of them are confirmed.
        refused: for how many of these the method does not work.
        reason: why not, for the first of them.
        copy: copy score (the highest cosine of the descriptor to a training image): median over
            prompts of the median over seeds.
        copy_worst: median over prompts of the worst seed.
        copies: images that are copies, of how many.
        bound: upper 95 % bound of the share of copies (Clopper-Pearson). It takes images for
            independent, so it is of these prompts, not of others.
        masked: masked copy score of TM prompts: median over prompts of the median over seeds.
        masked_worst: the same for the worst seed.
        diversity: D_SSCD, the median over prompts.
        alignment: A_CLIP with the suspect's caption, the median over prompts of the median over
            seeds.
        ordinary: images of ordinary captions.
        changed: how many of them have a descriptor similarity to before below .5.
        ordinary_alignment: their median A_CLIP.
        clip_fid: their distance to unedited images from other noise; only of all suspects. None if
            one is refused, since its ordinary images are missing then.
        fit_seconds: localization and fitting for one suspect, the median.
        draw_ratio: seconds of an image, relative to the unedited model: the median over prompts.
    """

    method: str
    strength: float
    group: str = ALL_GROUPS
    suspects: int = 0
    refused: int = 0
    reason: str = ""
    copy: float | None = None
    copy_worst: float | None = None
    copies: Copies = field(default_factory=lambda: Copies(0, 0))
    bound: float | None = None
    masked: float | None = None
    masked_worst: float | None = None
    diversity: float | None = None
    alignment: float | None = None
    ordinary: int = 0
    changed: int = 0
    ordinary_alignment: float | None = None
    clip_fid: float | None = None
    fit_seconds: float | None = None
    draw_ratio: float | None = None

    @property
    def copy_rate(self) -> float | None:
        """The share of images that are copies, in [0, 1]."""
        return self.copies.copies / self.copies.seeds if self.copies.seeds else None

    @property
    def changed_rate(self) -> float | None:
        """The share of ordinary images that changed, in [0, 1]."""
        return self.changed / self.ordinary if self.ordinary else None


def method_rows(
    prompts: Mapping[int, Prompt],
    records: Mapping[int, DrawnRecord],
    unedited: Mapping[int, DrawnRecord],
    other: Tensor | None,
) -> list[MethodRow]:
    """Sum up a method at one strength, for all suspects and for each group of them.

    Args:
        prompts: the confirmed suspects by index.
        records: of the method, by index. There must be one for each prompt.
        unedited: those of the unedited model.
        other: image features of unedited ordinary images from other noise, (N, F); None without a
            CLIP.
    """
    order = list(prompts)
    rows = []
    for group, places in groups_of(list(prompts.values())).items():
        indices = [order[place] for place in places]
        row = _row(group, [(records[index], unedited[index]) for index in indices])
        if group == ALL_GROUPS and other is not None:
            row = replace(row, clip_fid=_clip_fid([records[index] for index in indices], other))
        rows.append(row)
    return rows


def _row(group: str, pairs: Sequence[tuple[DrawnRecord, DrawnRecord]]) -> MethodRow:
    """Sum up the records of a group, each with the one of the unedited model."""
    first = pairs[0][0]
    refusals = [record.refused for record, _ in pairs if record.refused]
    row = MethodRow(
        method=first.method,
        strength=first.strength,
        group=group,
        suspects=len(pairs),
        refused=len(refusals),
        reason=refusals[0] if refusals else "",
    )
    worked = [(record, before) for record, before in pairs if not record.refused]
    if not worked:
        return row
    records = [record for record, _ in worked]
    copies = Copies(
        sum(record.copies for record in records), sum(len(record.scores) for record in records)
    )
    similarity = [value for record in records for value in record.similarity]
    return replace(
        row,
        copy=_over_prompts(records, _COPY, median),
        copy_worst=_over_prompts(records, _COPY, max),
        copies=copies,
        bound=copies.upper(CONFIDENCE),
        masked=_over_prompts(records, _MASKED, median),
        masked_worst=_over_prompts(records, _MASKED, max),
        diversity=_over_prompts(records, _DIVERSITY, median),
        alignment=_over_prompts(records, _ALIGNMENT, median),
        ordinary=len(similarity),
        changed=sum(value < CHANGED for value in similarity),
        ordinary_alignment=_median(value for record in records for value in record.alignment),
        fit_seconds=_median(record.fit_seconds for record in records),
        draw_ratio=_median(
            (record.seconds / record.images) / (before.seconds / before.images)
            for record, before in worked
            if before.images
        ),
    )


def _over_prompts(
    records: Sequence[DrawnRecord], metric: str, of_seeds: Callable[[Iterable[float]], float]
) -> float | None:
    """Return the median over prompts of what the seeds of each say by a metric."""
    values = [record.values[metric] for record in records if metric in record.values]
    return _median(of_seeds(value) if isinstance(value, tuple) else value for value in values)


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return float(median(known)) if known else None


def _clip_fid(records: Sequence[DrawnRecord], other: Tensor) -> float | None:
    """Return the distance, which depends on the number of images: None where some are missing."""
    features = [unpacked(text) for record in records for text in record.features]
    if len(features) < 2 or any(record.refused for record in records):
        return None
    return quality(torch.stack(features), other).fid
