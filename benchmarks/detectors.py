"""How well each detector tells what the bundled model has memorized, and which one to choose.

python benchmarks/detectors.py [--records FOLDER]

Reads the records of compare.py. Prints a table of all detectors, natural plants apart, and what
becomes of a choice: plants have halves that were trained into different models, and each half
chooses the detector of at most 4 samples with the highest AUROC against calibration captions. What
it then does to the other half is counted against test captions, at the level of 1 % from
calibration captions. `compare.py --only NAME` measures a detector. Where a score is the sum of
several quantities, the mean of each follows for plants and for ordinary captions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import unmemorize as um
from unmemorize._files import from_json
from unmemorize.cli.compare import planted_suspects
from unmemorize.comparison import ALL_GROUPS, DetectorRow
from unmemorize.detection import as_detector, conformal_quantile, weighed, with_units
from unmemorize.metrics import Separation, auroc

RECORDS = Path("benchmarks/records/compare")
NATURAL = "natural"
MOST_SAMPLES = 4
"""What a chosen detector may take, besides what all prompts share."""


@dataclass(frozen=True)
class Scores:
    """The scores of a detector, in the units that its calibration found.

    Args:
        planted: of the plants.
        calibration: of the calibration captions that the level comes from.
        test: of the test captions.
        row: what the comparison says of the detector.
    """

    planted: tuple[float, ...]
    calibration: tuple[float, ...]
    test: tuple[float, ...]
    row: DetectorRow

    @classmethod
    def of(cls, row: DetectorRow, lines: Sequence[Sequence[float]], plants: int) -> Scores:
        """Read the lines of a record: plants first, then calibration and test captions."""
        ordinary = lines[plants:]
        calibration, test = ordinary[: -row.test], ordinary[-row.test :]
        detector = as_detector(row.name)
        fitted, used = with_units(detector, [tuple(line[1:]) for line in calibration])
        planted, level, others = (
            tuple(weighed(fitted, line[0], tuple(line[1:])) for line in some)
            for some in (lines[:plants], calibration[used:], test)
        )
        return cls(planted, level, others, row)


@dataclass(frozen=True)
class Report:
    """What a half of the plants chooses, and what that does to the other half.

    Args:
        half: which half chooses.
        chosen: the name of the detector.
        area: AUROC of the other half against test captions.
        found: how many plants of the other half are above the level.
        plants: how many there are.
        found_natural, natural: likewise for natural plants alone.
        false_alarms, test: test captions above the level, and all of them.
    """

    half: str
    chosen: str
    area: Separation
    found: int
    plants: int
    found_natural: int
    natural: int
    false_alarms: int
    test: int


@dataclass(frozen=True)
class Pooled:
    """Both reports together.

    Args:
        area: the mean AUROC over plants, each as the other half's choice sees it.
        found, plants: see `Report`.
        missed_natural: natural plants below the level.
        samples: the most that a chosen detector takes for a prompt.
    """

    area: float
    found: int
    plants: int
    missed_natural: int
    samples: int

    @property
    def reached(self) -> bool:
        """Whether this is what was aimed at."""
        return self.area >= 0.995 and self.missed_natural <= 1 and self.samples <= MOST_SAMPLES


def read(records: Path) -> list[Scores]:
    """Read the records of all detectors that work on the model."""
    found = []
    for path in sorted(records.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for value in content["comparison"]["detectors"]:
            row = from_json(DetectorRow, value, um.RunError, str(path), "Measure it again.")
            if not row.refused:
                (lines,) = content["scores"].values()
                found.append(Scores.of(row, lines, content["comparison"]["suspects"]))
    return found


def quantities(records: Path) -> list[str]:
    """Describe the means of quantities that detectors add up, plants beside ordinary captions."""
    found = []
    for path in sorted(records.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not content["comparison"]["detectors"]:
            continue
        for lines in content["scores"].values():
            _, *parts = zip(*lines, strict=True)
            for number, values in enumerate(parts, 1):
                plants = content["comparison"]["suspects"]
                planted, ordinary = fmean(values[:plants]), fmean(values[plants:])
                found.append(
                    f"{path.stem}, quantity {number}: plants {planted:.2f}, "
                    f"ordinary captions {ordinary:.2f}"
                )
    return found


def halves_of_plants() -> tuple[list[str], list[bool]]:
    """Return for each plant its half, and whether it is natural."""
    halves = {entry.prompt.text: str(entry.half) for entry in um.testbed.planted()}
    suspects = planted_suspects()
    return [halves[each.text] for each in suspects], [each.group == NATURAL for each in suspects]


def reports(
    scores: Sequence[Scores], halves: Sequence[str], natural: Sequence[bool]
) -> list[Report]:
    """Let each half choose; return its `Report`, both halves in order."""
    candidates = [each for each in scores if each.row.samples <= MOST_SAMPLES]

    def preference(candidate: Scores, half: str) -> tuple[float, int]:
        ours = _those(candidate.planted, [each == half for each in halves])
        return auroc(ours, candidate.calibration).value, -candidate.row.samples

    found = []
    for half in sorted(set(halves)) if candidates else ():
        chosen = max(candidates, key=lambda candidate: preference(candidate, half))
        level = conformal_quantile(chosen.calibration, chosen.row.rate)
        others = _those(chosen.planted, [each != half for each in halves])
        wild = _those(
            chosen.planted,
            [each != half and is_natural for each, is_natural in zip(halves, natural, strict=True)],
        )
        found.append(
            Report(
                half=half,
                chosen=chosen.row.name,
                area=auroc(others, chosen.test),
                found=_above(others, level),
                plants=len(others),
                found_natural=_above(wild, level),
                natural=len(wild),
                false_alarms=_above(chosen.test, level),
                test=len(chosen.test),
            )
        )
    return found


def pooled(scores: Sequence[Scores], found: Sequence[Report]) -> Pooled:
    """Put the reports of both halves together."""
    plants = sum(report.plants for report in found)
    names = {report.chosen for report in found}
    return Pooled(
        area=sum(report.area.value * report.plants for report in found) / plants,
        found=sum(report.found for report in found),
        plants=plants,
        missed_natural=sum(report.natural - report.found_natural for report in found),
        samples=max(each.row.samples for each in scores if each.row.name in names),
    )


def table(rows: Sequence[DetectorRow]) -> list[str]:
    """Return the lines of the table, the highest AUROC first."""
    lines = [
        "| detector | AUROC | natural plants | TPR at 1 % FPR | found | natural | false alarms "
        "| samples | shared |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row.groups[ALL_GROUPS].auroc.value):
        every, natural = (row.groups[group] for group in (ALL_GROUPS, NATURAL))
        cells = [
            f"`{row.name}`",
            every.auroc,
            natural.auroc,
            every.tpr,
            f"{every.found} of {every.suspects}",
            f"{natural.found} of {natural.suspects}",
            f"{row.false_alarms} of {row.test}",
            row.samples,
            row.shared,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _those(values: Sequence[float], chosen: Sequence[bool]) -> list[float]:
    return [value for value, wanted in zip(values, chosen, strict=True) if wanted]


def _above(values: Sequence[float], level: float) -> int:
    return sum(value > level for value in values)


def main(records: Path) -> None:
    scores = read(records)
    print("\n".join(table([each.row for each in scores])), "\n")
    found = reports(scores, *halves_of_plants())
    for report in found:
        print(report)
    if found:
        together = pooled(scores, found)
        print(together, f"reached={together.reached}")
    print("\n".join(quantities(records)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    main(parser.parse_args().records)
