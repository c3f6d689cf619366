"""The records of a mitigation in a pack, as they are read to compute its numbers once more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

from unmemorize.report._recomputed_values import Files, parsed, records_of, settings_of

SCHEMAS = tuple(f"unmemorize.report/{version}" for version in range(1, 6))
"""The first one counts no paraphrases one by one, and takes images with random neurons edited for a
control of every prompt. The second one does not count suspects with a single copy. The third one
does not count prompts that are not certified. The fourth one does not say how much of a training
image is shown again."""


class MitigationRecords:
    """The records of a mitigation.

    Attributes:
        kind: returns the records of a kind by index; they are read once, and must not be changed.
        version: of the report's schema.
        confirmed: the indices of the memorized prompts.
        edit: the digest of the edit that is exported; empty where none was found.

    Args:
        files: the files of the pack by name.

    Raises:
        KeyError, ValueError: one is missing or damaged.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.kind = cache(partial(records_of, files))
        self.settings = settings_of(parsed("manifest.json", files["manifest.json"]))
        self.result = parsed("mitigation.json", files["mitigation.json"])
        reported = parsed("report.json", files["report.json"]).get("schema")
        self.version = 1 + SCHEMAS.index(reported if reported in SCHEMAS else SCHEMAS[-1])
        prompts = files["prompts.jsonl"].splitlines()
        self.prompts = [parsed("prompts.jsonl", line) for line in prompts]
        self.detections = self.kind("detections")
        self.confirmations = self.kind("confirmations")
        self.confirmed = [index for index in self.confirmations if self.counted(index)[0] >= 2]
        self.before = self.kind("before")
        self.edit: str = self.result["edit"]

    def unedited_scores(self, index: int) -> list[float]:
        """Return the scores of a suspect's unedited images but for the one they compare with."""
        record = self.confirmations[index]
        return [score for at, score in enumerate(record["scores"]) if at != record["medoid"]]

    def counted(self, index: int) -> tuple[int, int]:
        """Return how many unedited images of a suspect are copies, and of how many."""
        return self.over_level(index, self.unedited_scores(index))

    def over_level(self, index: int, scores: Sequence[float]) -> tuple[int, int]:
        """Return how many scores of a suspect's images are those of copies, and of how many."""
        level = self.confirmations[index]["level"]
        return sum(score > level for score in scores), len(scores)

    def attempts(self) -> tuple[dict[int, dict[str, Any]], dict[int, tuple[dict[str, Any], int]]]:
        """Return the record of each prompt's first certificate of the edit, and of its last one.

        A prompt that failed by one image is tested again, alone. Where one failed for good, all of
        its images were counted afterwards. The last one comes with its number.
        """
        name = rf"certificate-(\d+)-{re.escape(self.edit)}\."
        found = (re.match(name, file) for file in self.files)
        first: dict[int, dict[str, Any]] = {}
        last: dict[int, tuple[dict[str, Any], int]] = {}
        for number in sorted({int(match[1]) for match in found if match}):
            counted = self.kind(f"count-{number}-{self.edit}")
            records = self.kind(f"certificate-{number}-{self.edit}") | counted
            first = {**records, **first}
            last |= {index: (record, number) for index, record in records.items()}
        return first, last

    def control(self) -> dict[int, dict[str, Any]]:
        """Return the images with random neurons edited, of the prompts for which they count."""
        outcomes = self.result["outcomes"]
        for outcome in outcomes:
            for file in outcome["files_control"]:
                drawn = self.kind(file.split("/")[0])
                if self.version == 1:
                    return drawn
                return {
                    index: record
                    for index, record in drawn.items()
                    if re.match("(complete|initial|all) neurons at ", outcomes[index]["rung"])
                }
        return {}

    def each_paraphrase(self) -> Iterator[tuple[int, int, str, Any]]:
        """Yield memorized prompt, place among its paraphrases, before or after, and record."""
        order = [
            (index, place)
            for index, each in enumerate(self.prompts)
            for place in range(len(each["paraphrases"]))
        ]
        for name, kind in (("before", "before"), ("after", self.edit)):
            for number, record in self.kind(f"paraphrases-{kind}").items():
                index, place = order[number]
                if index in self.confirmed:
                    yield index, place, name, record
