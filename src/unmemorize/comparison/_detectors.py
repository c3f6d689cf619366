"""How well each detector tells suspects from ordinary captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from unmemorize._prompts import ALL_GROUPS, Prompt
from unmemorize.comparison._scores import ScoreRecord
from unmemorize.detection import (
    Calibration,
    Detector,
    conformal_quantile,
    weighed,
    with_units,
)
from unmemorize.metrics import Separation, auroc, tpr_at_fpr, wilson_interval


@dataclass(frozen=True, kw_only=True)
class FoundGroup:
    """How well a detector finds one group of suspects.

    Args:
        auroc, tpr: against the test captions, the latter at a false positive rate of 1 %.
        found: how many of them are above the level.
        suspects: how many there are.
    """

    auroc: Separation
    tpr: Separation
    found: int
    suspects: int


@dataclass(frozen=True, kw_only=True)
class DetectorRow:
    """One detector in a comparison.

    Args:
        name: its name.
        refused: why it does not work on the model; empty where it does.
        level: the score above which a prompt is called memorized.
        rate: the false positive rate that the level bounds, for captions like those of the
            calibration.
        calibration: how many captions gave the level.
        false_alarms: how many test captions are above the level.
        test: how many test captions there are.
        false_alarm_interval: of their share, 95 % (Wilson).
        groups: by group of suspects, the first of which is "all".
        samples: denoiser samples that a prompt takes alone.
        shared: further ones that all prompts share.
        seconds: for a prompt, the median.
    """

    name: str
    refused: str = ""
    level: float = 0.0
    rate: float = 0.0
    calibration: int = 0
    false_alarms: int = 0
    test: int = 0
    false_alarm_interval: tuple[float, float] = (0.0, 1.0)
    groups: Mapping[str, FoundGroup] = field(default_factory=dict)
    samples: int = 0
    shared: int = 0
    seconds: float = 0.0


def detector_row(
    detector: Detector,
    suspects: Sequence[Prompt],
    records: Sequence[ScoreRecord],
    calibration: int,
) -> DetectorRow:
    """Calibrate a detector and count what it finds.

    Args:
        detector: the detector.
        suspects: the prompts that are memorized.
        records: of these, then of the calibration captions, then of the test captions.
        calibration: how many calibration captions there are.

    Raises:
        MetricError: a part is empty.
    """
    refused = next((record.refused for record in records if record.refused), "")
    if refused:
        return DetectorRow(name=detector.name, refused=refused)
    ours = records[: len(suspects)]
    ordinary = records[len(suspects) :]
    calibrated, used = with_units(detector, [each.parts for each in ordinary[:calibration]])

    def scores(some: Sequence[ScoreRecord]) -> list[float]:
        return [weighed(calibrated, each.value, each.parts) for each in some]

    levels, others = scores(ordinary[used:calibration]), scores(ordinary[calibration:])
    rate = Calibration().rate(len(levels))
    level = conformal_quantile(levels, rate)
    alarms = sum(score > level for score in others)
    return DetectorRow(
        name=detector.name,
        level=level,
        rate=rate,
        calibration=len(levels),
        false_alarms=alarms,
        test=len(others),
        false_alarm_interval=wilson_interval(alarms, len(others)),
        groups={
            group: _found(scores([ours[index] for index in indices]), others, level)
            for group, indices in groups_of(suspects).items()
        },
        samples=ours[0].samples,
        shared=ours[0].shared,
        seconds=median(record.seconds for record in records),
    )


def groups_of(prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """Return the positions of prompts by group: all together first, then each of several groups.

    Examples:
        >>> groups_of([Prompt("a", group="x"), Prompt("b", group="y")])
        {'all': [0, 1], 'x': [0], 'y': [1]}
        >>> groups_of([Prompt("a", group="x"), Prompt("b", group="x")])
        {'all': [0, 1]}
    """
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.group, []).append(index)
    everything = {ALL_GROUPS: list(range(len(prompts)))}
    return everything | groups if len(groups) > 1 else everything


def _found(ours: Sequence[float], others: Sequence[float], level: float) -> FoundGroup:
    return FoundGroup(
        auroc=auroc(ours, others),
        tpr=tpr_at_fpr(ours, others),
        found=sum(score > level for score in ours),
        suspects=len(ours),
    )
