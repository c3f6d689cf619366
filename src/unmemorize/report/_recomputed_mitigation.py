"""The numbers of a mitigation, computed once more from its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from scipy.stats import beta, binom

from unmemorize.report._recomputed_ordinary import side_effects
from unmemorize.report._recomputed_records import SCHEMAS, MitigationRecords
from unmemorize.report._recomputed_values import (
    Files,
    Recomputed,
    median,
    outcomes_of,
    percent,
    rate,
)


def recompute_mitigation(files: Files) -> Recomputed:
    """Compute what follows from the records of a mitigation.

    Raises:
        KeyError, ValueError: a record is missing or damaged.
    """
    records = MitigationRecords(files)
    numbers = _numbers(records)
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


def _numbers(records: MitigationRecords) -> dict[str, Any]:
    """Return all numbers, by their dotted names in ``report.json``."""
    confirmed = records.confirmed
    first, last = records.attempts() if records.edit else ({}, {})
    paraphrases = _paraphrases(records) if records.edit else {}
    control = records.control()
    values: dict[str, Any] = {
        "schema": SCHEMAS[records.version - 1],
        "suspects": len(records.prompts),
        "called": len(records.confirmations),
        "confirmed": len(confirmed),
    }
    totals = {"before": [0, 0], "after": [0, 0], "control": [0, 0]}
    totals |= {"paraphrases_before": [0, 0], "paraphrases_after": [0, 0]}
    statuses = dict.fromkeys(
        ("removed", "reduced", "not removed", "not confirmed", "not tested"), 0
    )
    for index in range(len(records.prompts)):
        counts: dict[str, tuple[int, int]] = {}
        if index in records.confirmations:
            counts["before"] = records.counted(index)
        attempt = 0
        if index in last and index in confirmed:
            record, attempt = last[index]
            counts["after"] = records.over_level(index, record["scores"])
        if index in control:
            counts["control"] = records.over_level(index, control[index]["scores"])
        counts |= paraphrases.get(index, {})
        status, verdict = _judged(records, index, counts, attempt)
        statuses[status] += 1
        if index in confirmed:
            summed = dict(counts)
            if index in first:
                summed["after"] = records.over_level(index, first[index]["scores"])
            for name, (copies, images) in summed.items():
                totals[name][0] += copies
                totals[name][1] += images
        values |= {
            f"prompts.{index}.{name}": value
            for name, value in _of_prompt(records, index, status, verdict, counts).items()
        }
    values |= {f"counts.{status}": number for status, number in statuses.items()}
    for name, (copies, images) in totals.items():
        values |= rate(name, copies, images)
    if records.edit and records.version > 1:
        values |= _of_copying(records, first, last)
    cleared = [index for index in records.confirmations if index not in confirmed]
    values |= rate("false_alarms", len(cleared), len(records.confirmations))
    if records.version > 3:
        values["not_certified"] = statuses["reduced"] + statuses["not removed"]
    if records.version > 2:
        values["single_copies"] = sum(records.counted(index)[0] == 1 for index in cleared)
    return values | side_effects(records, control)


def _judged(
    records: MitigationRecords,
    index: int,
    counts: Mapping[str, tuple[int, int]],
    attempt: int,
) -> tuple[str, str]:
    """Return the status of a suspect and its verdict."""
    if index not in records.confirmations:
        return "not tested", "not tested"
    if index not in records.confirmed:
        return "not confirmed", "not confirmed"
    if "after" not in counts:
        return "not removed", "not removed"
    settings = records.settings
    copies, images = counts["after"]
    error = (1 - settings["confidence"]) * (1 if settings["declared"] else 0.5**attempt)
    if binom.cdf(copies, images, settings["alpha"]) <= error:
        upper = 1.0 if copies == images else beta.ppf(1 - error, copies + 1, images - copies)
        bound = math.ceil(1000 * upper - 1e-9) / 10
        level = f"at most {bound:.1f} % at {percent(1 - error)} %"
        if not settings["declared"]:
            level += f"; whole search {percent(settings['confidence'])} %"
        return "removed", f"removed ({copies} of {images}, {level})"
    if records.result["outcomes"][index].get("confidence") is None:  # by an earlier version
        error = 1 - settings["confidence"]
    upper = 1.0 if copies == images else beta.ppf(1 - error, copies + 1, images - copies)
    k, n = counts["before"]
    lower = beta.ppf(1 - settings["confidence"], k, n - k + 1)
    status = "reduced" if upper < lower else "not removed"
    return status, f"{status} ({copies} of {images})"


def _of_prompt(
    records: MitigationRecords,
    index: int,
    status: str,
    verdict: str,
    counts: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """Return the numbers of one suspect."""
    prompt = records.prompts[index]
    values: dict[str, Any] = {
        "index": index,
        "prompt": prompt["text"],
        "group": prompt["group"],
        "status": status,
        "verdict": verdict,
        "score": records.detections[index]["score"],
    }
    record = records.confirmations.get(index)
    if record:
        values |= {
            "measure": record["measure"],
            "level": record["level"],
            "worst_before": max(records.unedited_scores(index)),
            "alignment_before": median(records.before[index]["alignment"]),
        }
    for name, (copies, images) in counts.items():
        values |= rate(name, copies, images)
    files = records.result["outcomes"][index]["files_after"]
    if files:
        after = records.kind(files[0].split("/")[0])[index]
        values["worst_after"] = max(after["scores"])
        values["alignment_after"] = median(after["alignment"])
    shares = records.kind(f"reproduced-{records.edit or 'none'}").get(index, {})
    for name in ("before", "after", "ordinary"):
        if shares.get(name):
            values[f"reproduced_{name}"] = max(shares[name])
    neurons = records.kind("localizations").get(index)
    if neurons:
        values["neurons"] = sum(map(len, neurons["neurons"].values()))
    return values


def _paraphrases(records: MitigationRecords) -> dict[int, dict[str, tuple[int, int]]]:
    """Return copies and images of the paraphrases of each prompt, before and after."""
    counts: dict[int, dict[str, tuple[int, int]]] = {}
    for index, _, name, record in records.each_paraphrase():
        copies, images = records.over_level(index, record["scores"])
        of_prompt = counts.setdefault(index, {})
        so_far = of_prompt.get(f"paraphrases_{name}", (0, 0))
        of_prompt[f"paraphrases_{name}"] = so_far[0] + copies, so_far[1] + images
    return counts


def _of_copying(
    records: MitigationRecords,
    first: Mapping[int, dict[str, Any]],
    last: Mapping[int, tuple[dict[str, Any], int]],
) -> dict[str, Any]:
    """Return the numbers of each paraphrase, and how many prompts have copies left."""
    values: dict[str, Any] = {}
    fresh, rephrased = set(), set()
    for index in records.confirmed:
        drawn = [first[index], last[index][0]] if index in last else []
        if any(records.over_level(index, record["scores"])[0] for record in drawn):
            fresh.add(index)
    for index, place, name, record in records.each_paraphrase():
        copies, images = records.over_level(index, record["scores"])
        here = f"paraphrases.{index}.{place}"
        values[f"{here}.text"] = records.prompts[index]["paraphrases"][place]
        values |= rate(f"{here}.{name}", copies, images)
        if name == "after" and copies:
            rephrased.add(index)
    return values | {
        "copying.any": len(fresh | rephrased),
        "copying.fresh": len(fresh),
        "copying.paraphrases": len(rephrased),
    }
