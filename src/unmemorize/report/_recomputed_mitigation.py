"""The numbers of a mitigation, computed once more from its records alone: JSON lines and images."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import beta, binom

from unmemorize.report._recomputed_distances import Array, correlation, frechet, kernel_distance
from unmemorize.report._recomputed_values import (
    Files,
    Recomputed,
    median,
    outcomes_of,
    parsed,
    percent,
    rate,
    records_of,
    settings_of,
    vector,
)

_SCHEMAS = tuple(f"unmemorize.report/{version}" for version in range(1, 6))
"""The first one counts no paraphrases one by one, and takes images with random neurons edited for a
control of every prompt. The second one does not count suspects with a single copy. The third one
does not count prompts that are not certified. The fourth one does not say how much of a training
image is shown again."""
_CHANGED = 0.5
"""Similarity to the image before, below which an image of an ordinary prompt counts as changed."""
_WHOLE_SETS = 1000
"""Images up to which KID compares whole sets of one size. Else it draws subsets, which this module
does not do."""


def recompute_mitigation(files: Files) -> Recomputed:
    """Compute what follows from the records of a mitigation.

    Raises:
        KeyError, ValueError: a record is missing or damaged.
    """
    records = _Records(files)
    numbers = records.numbers()
    return Recomputed(
        numbers=numbers,
        rows="prompts",
        headline=_headline(numbers, edited=bool(records.edit)),
        labels=dict(_labels(numbers)),
        references=[
            (image["path"], image["sha256"])
            for prompt in records.prompts
            for image in prompt["images"]
        ],
        named_by="prompts.jsonl",
        repeated={"mitigation.json": outcomes_of(numbers)},
    )


def _headline(numbers: Mapping[str, Any], *, edited: bool) -> str:
    """Return the sentence on what was reached."""
    suspects, confirmed = numbers["suspects"], numbers["confirmed"]
    if confirmed == 0:
        who = "The suspect" if suspects == 1 else f"None of {suspects} suspects"
        return f"{who} is {'not ' if suspects == 1 else ''}shown to be memorized."
    prompts = "1 memorized prompt" if confirmed == 1 else f"{confirmed} memorized prompts"
    if not edited:
        return f"No edit was found that could end the copies of {prompts}."
    copies, images = numbers.get("after.copies", 0), numbers.get("after.images", 0)
    return (
        f"Copies removed for {numbers['counts.removed']} of {prompts}: {copies} of {images} fresh "
        "images are copies."
    )


def _labels(numbers: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the label of each memorized prompt, by the id of its card."""
    for index in range(numbers["suspects"]):
        status, verdict = (numbers[f"prompts.{index}.{name}"] for name in ("status", "verdict"))
        if status == "removed":
            yield f"prompt-{index}", ("tag good", f"✓ {verdict}")
        elif status in ("reduced", "not removed"):
            yield f"prompt-{index}", ("tag warn", f"✗ {verdict}")


class _Records:
    """The records of a mitigation."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.kind = partial(records_of, files)
        self.settings = settings_of(parsed("manifest.json", files["manifest.json"]))
        self.result = parsed("mitigation.json", files["mitigation.json"])
        reported = parsed("report.json", files["report.json"]).get("schema")
        self.version = 1 + _SCHEMAS.index(reported if reported in _SCHEMAS else _SCHEMAS[-1])
        prompts = files["prompts.jsonl"].splitlines()
        self.prompts = [parsed("prompts.jsonl", line) for line in prompts]
        self.detections = self.kind("detections")
        self.confirmations = self.kind("confirmations")
        self.before = self.kind("before")
        self.edit: str = self.result["edit"]

    def pixels(self, name: str) -> Array:
        """Return the pixels of an image, (height, width, 3)."""
        try:
            with Image.open(io.BytesIO(self.files[name]), formats=["PNG"]) as image:
                return np.asarray(image.convert("RGB"), np.float64)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
            raise ValueError(f"{name}: cannot be read as a PNG ({problem})") from problem

    def numbers(self) -> dict[str, Any]:
        confirmed = [index for index in self.confirmations if self.is_confirmed(index)]
        first, last = self.attempts() if self.edit else ({}, {})
        paraphrases = self.paraphrases(confirmed) if self.edit else {}
        control = self.control()
        values: dict[str, Any] = {
            "schema": _SCHEMAS[self.version - 1],
            "suspects": len(self.prompts),
            "called": len(self.confirmations),
            "confirmed": len(confirmed),
        }
        totals = {"before": [0, 0], "after": [0, 0], "control": [0, 0]}
        totals |= {"paraphrases_before": [0, 0], "paraphrases_after": [0, 0]}
        statuses = dict.fromkeys(
            ("removed", "reduced", "not removed", "not confirmed", "not tested"), 0
        )
        for index, prompt in enumerate(self.prompts):
            counts: dict[str, tuple[int, int]] = {}
            if index in self.confirmations:
                counts["before"] = self.counted(index)
            attempt = 0
            if index in last and index in confirmed:
                record, attempt = last[index]
                counts["after"] = self.over_level(index, record["scores"])
            if index in control:
                counts["control"] = self.over_level(index, control[index]["scores"])
            counts |= paraphrases.get(index, {})
            status, verdict = self.judged(index, confirmed, counts, attempt)
            statuses[status] += 1
            if index in confirmed:
                summed = dict(counts)
                if index in first:
                    summed["after"] = self.over_level(index, first[index]["scores"])
                for name, (copies, images) in summed.items():
                    totals[name][0] += copies
                    totals[name][1] += images
            values |= {
                f"prompts.{index}.{name}": value
                for name, value in self.of_prompt(
                    index, prompt["text"], status, verdict, counts
                ).items()
            }
        values |= {f"counts.{status}": number for status, number in statuses.items()}
        for name, (copies, images) in totals.items():
            values |= rate(name, copies, images)
        if self.edit and self.version > 1:
            values |= self.of_copying(confirmed, first, last)
        cleared = [index for index in self.confirmations if index not in confirmed]
        values |= rate("false_alarms", len(cleared), len(self.confirmations))
        if self.version > 3:
            values["not_certified"] = statuses["reduced"] + statuses["not removed"]
        if self.version > 2:
            values["single_copies"] = sum(self.counted(index)[0] == 1 for index in cleared)
        return values | self.of_ordinary(control)

    def counted(self, index: int) -> tuple[int, int]:
        record = self.confirmations[index]
        scores = [s for at, s in enumerate(record["scores"]) if at != record["medoid"]]
        return self.over_level(index, scores)

    def over_level(self, index: int, scores: Sequence[float]) -> tuple[int, int]:
        level = self.confirmations[index]["level"]
        return sum(score > level for score in scores), len(scores)

    def is_confirmed(self, index: int) -> bool:
        return self.counted(index)[0] >= 2

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
            records = self.kind(f"certificate-{number}-{self.edit}")
            records |= self.kind(f"count-{number}-{self.edit}")
            first = {**records, **first}
            last |= {index: (record, number) for index, record in records.items()}
        return first, last

    def control(self) -> dict[int, dict[str, Any]]:
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

    def each_paraphrase(self, confirmed: Sequence[int]) -> Iterator[tuple[int, int, str, Any]]:
        """Yield prompt, place among its paraphrases, before or after, and record of each."""
        order = [
            (index, place)
            for index, each in enumerate(self.prompts)
            for place in range(len(each["paraphrases"]))
        ]
        for name, kind in (("before", "before"), ("after", self.edit)):
            for number, record in self.kind(f"paraphrases-{kind}").items():
                index, place = order[number]
                if index in confirmed:
                    yield index, place, name, record

    def paraphrases(self, confirmed: Sequence[int]) -> dict[int, dict[str, tuple[int, int]]]:
        counts: dict[int, dict[str, tuple[int, int]]] = {}
        for index, _, name, record in self.each_paraphrase(confirmed):
            copies, images = self.over_level(index, record["scores"])
            of_prompt = counts.setdefault(index, {})
            so_far = of_prompt.get(f"paraphrases_{name}", (0, 0))
            of_prompt[f"paraphrases_{name}"] = so_far[0] + copies, so_far[1] + images
        return counts

    def of_copying(
        self,
        confirmed: Sequence[int],
        first: Mapping[int, dict[str, Any]],
        last: Mapping[int, tuple[dict[str, Any], int]],
    ) -> dict[str, Any]:
        """Return the numbers of each paraphrase, and how many prompts have copies left."""
        values: dict[str, Any] = {}
        fresh, rephrased = set(), set()
        for index in confirmed:
            records = [first[index], last[index][0]] if index in last else []
            if any(self.over_level(index, record["scores"])[0] for record in records):
                fresh.add(index)
        for index, place, name, record in self.each_paraphrase(confirmed):
            copies, images = self.over_level(index, record["scores"])
            here = f"paraphrases.{index}.{place}"
            values[f"{here}.text"] = self.prompts[index]["paraphrases"][place]
            values |= rate(f"{here}.{name}", copies, images)
            if name == "after" and copies:
                rephrased.add(index)
        return values | {
            "copying.any": len(fresh | rephrased),
            "copying.fresh": len(fresh),
            "copying.paraphrases": len(rephrased),
        }

    def judged(
        self,
        index: int,
        confirmed: Sequence[int],
        counts: Mapping[str, tuple[int, int]],
        attempt: int,
    ) -> tuple[str, str]:
        """Return the status of a suspect and its verdict."""
        if index not in self.confirmations:
            return "not tested", "not tested"
        if index not in confirmed:
            return "not confirmed", "not confirmed"
        if "after" not in counts:
            return "not removed", "not removed"
        settings = self.settings
        copies, images = counts["after"]
        error = (1 - settings["confidence"]) * (1 if settings["declared"] else 0.5**attempt)
        if binom.cdf(copies, images, settings["alpha"]) <= error:
            upper = 1.0 if copies == images else beta.ppf(1 - error, copies + 1, images - copies)
            bound = math.ceil(1000 * upper - 1e-9) / 10
            level = f"at most {bound:.1f} % at {percent(1 - error)} %"
            if not settings["declared"]:
                level += f"; whole search {percent(settings['confidence'])} %"
            return "removed", f"removed ({copies} of {images}, {level})"
        if self.result["outcomes"][index].get("confidence") is None:  # by an earlier version
            error = 1 - settings["confidence"]
        upper = 1.0 if copies == images else beta.ppf(1 - error, copies + 1, images - copies)
        k, n = counts["before"]
        lower = beta.ppf(1 - settings["confidence"], k, n - k + 1)
        status = "reduced" if upper < lower else "not removed"
        return status, f"{status} ({copies} of {images})"

    def of_prompt(
        self,
        index: int,
        text: str,
        status: str,
        verdict: str,
        counts: Mapping[str, tuple[int, int]],
    ) -> dict[str, Any]:
        """Return the numbers of one suspect."""
        values: dict[str, Any] = {
            "index": index,
            "prompt": text,
            "group": self.prompts[index]["group"],
            "status": status,
            "verdict": verdict,
            "score": self.detections[index]["score"],
        }
        record = self.confirmations.get(index)
        if record:
            at = record["medoid"]
            scores = [score for seed, score in enumerate(record["scores"]) if seed != at]
            values |= {
                "measure": record["measure"],
                "level": record["level"],
                "worst_before": max(scores),
                "alignment_before": median(self.before[index]["alignment"]),
            }
        for name, (copies, images) in counts.items():
            values |= rate(name, copies, images)
        files = self.result["outcomes"][index]["files_after"]
        if files:
            after = self.kind(files[0].split("/")[0])[index]
            values["worst_after"] = max(after["scores"])
            values["alignment_after"] = median(after["alignment"])
        shares = self.kind(f"reproduced-{self.edit or 'none'}").get(index, {})
        for name in ("before", "after", "ordinary"):
            if shares.get(name):
                values[f"reproduced_{name}"] = max(shares[name])
        neurons = self.kind("localizations").get(index)
        if neurons:
            values["neurons"] = sum(map(len, neurons["neurons"].values()))
        return values

    def of_ordinary(self, control: Mapping[int, Any]) -> dict[str, Any]:
        """Return what edits change in images of ordinary captions."""
        if not self.edit:
            return {}
        before = self.kind("ordinary-before")
        sample = max(1, self.settings["ordinary_images"] // 5)
        values = self.change("ordinary", before, f"ordinary-{self.edit}", len(before))
        if control:
            for outcome in self.result["outcomes"]:
                for file in outcome["files_control"][:1]:
                    kind = file.split("/")[0].replace("control-", "ordinary-")
                    values |= self.change("ordinary_control", before, kind, sample)
        for number, candidate in enumerate(self.result["candidates"]):
            here = f"candidates.{number}"
            digest = candidate["digest"]
            searched, again = self.kind(f"search-{digest}"), self.kind(f"search-{digest}-again")
            values[f"{here}.digest"] = digest
            if f"ordinary-{digest}.jsonl" in self.files:
                kind = f"ordinary-{digest}"
                values |= self.change(f"{here}.ordinary", before, kind, sample)
            if searched:
                copies = Counter({index: record["copies"] for index, record in searched.items()})
                copies.update({index: record["copies"] for index, record in again.items()})
                values[f"{here}.copying"] = sum(found > 1 for found in copies.values())
        return values

    def ordinary(self, images: list[Any]) -> list[Any]:
        """Leave images of memorized prompts out. Earlier versions counted them."""
        confirmed = filter(self.is_confirmed, self.confirmations if self.version > 4 else ())
        memorized = {self.prompts[index]["text"] for index in confirmed}
        return [each for each in images if each[0]["caption"] not in memorized] or images

    def change(
        self, name: str, before: Mapping[int, Any], kind: str, images: int
    ) -> dict[str, Any]:
        """Compare images of ordinary captions before and after an edit."""
        after = list(self.kind(kind).items())[:images]
        pairs = self.ordinary([(before[number], record) for number, record in after])
        first = np.stack([vector(one["embedding"]) for one, _ in pairs])
        second = np.stack([vector(two["embedding"]) for _, two in pairs])
        similarity = (first * second).sum(1)
        values = rate(f"{name}.changed", int((similarity < _CHANGED).sum()), len(pairs))
        values |= {
            f"{name}.similarity": float(np.sort(similarity)[(len(pairs) - 1) // 2]),
            f"{name}.worst": float(similarity.min()),
        }
        if all(each["file"] in self.files for pair in pairs for each in pair):
            correlations = [
                correlation(*(self.pixels(each["file"]) for each in pair)) for pair in pairs
            ]
            values[f"{name}.correlation"] = float(np.median(correlations))
        if pairs[0][1]["alignment"] is not None:
            values |= {
                f"{name}.alignment_before": median([one["alignment"] for one, _ in pairs]),
                f"{name}.alignment_after": median([two["alignment"] for _, two in pairs]),
            }
        other = self.ordinary([(each,) for each in self.kind("ordinary-other").values()])
        if self.settings["distances"] and other and pairs[0][1]["features"] and len(pairs) > 1:
            unedited = np.stack([vector(record["features"]) for (record,) in other])
            for suffix, side in (("", 1), ("_before", 0)):
                features = np.stack([vector(pair[side]["features"]) for pair in pairs])
                values[f"{name}.clip_fid{suffix}"] = frechet(features, unedited)
                if len(features) == len(unedited) <= _WHOLE_SETS:
                    values[f"{name}.kid{suffix}"] = kernel_distance(features, unedited)
        return values
