"""A finished mitigation written by hand, in which all numbers differ.

Prompts 0, 1, 2, ... are memorized (the first is still copied after the edit), the last two are not:
one is a false alarm of the screen, the other was not called.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from scipy.stats import beta

from records import HOSTILE, LAYER, SMALL_MITIGATION, localization
from unmemorize import Neurons, Prompt, Run
from unmemorize._files import to_json
from unmemorize.generation import EditFile, NeuronEdit
from unmemorize.mitigation import ImagesRecord, MitigationResult, MitigationRun
from unmemorize.mitigation._starts import starts_of
from unmemorize.runs import Inputs, start_run

DIGEST = "0123456789"
"""The digest of the edit that is exported."""
OTHER = "aaaaaaaaaa"
"""The digest of an edit that was given up."""
CONTROL = "cccccccccc"
COUNT = f"count-1-{DIGEST}"
"""The records of the fresh images of the prompt that is still copied. Its copies are kept."""
LEVEL = 0.5
SEEDS = 4
"""Unedited images of each suspect, and edited ones from the same noise."""
FRESH = 12
ORDINARY = 19
"""Images of ordinary captions, as many as `SMALL_MITIGATION` needs."""
SAMPLE = 3
"""How many of them candidates and the control are compared by."""
SETTINGS = MitigationRun(
    settings=replace(SMALL_MITIGATION, search_images=SEEDS),
    tau=0.45,
    threshold_prompts="1" * 64,
    statistics_prompts="2" * 64,
    captions="3" * 64,
    descriptor="4" * 64,
    clip="5" * 64,
)


def texts(memorized: int) -> list[str]:
    """The prompts of a run."""
    names = [HOSTILE, *(f"memorized prompt {number}" for number in range(1, memorized))]
    return [*names[:memorized], "a false alarm", "nothing at all"]


def scores_before(index: int, memorized: int) -> list[float]:
    """The scores of unedited images. The copy that is most alike comes at another place each."""
    if index >= memorized:
        return [0.1, 0.2, 0.31, 0.04]
    scores = [0.2, 0.71, 0.8, 0.6]
    scores[(index + 1) % SEEDS] = 0.9 + 0.001 * (index % 90)
    return scores


def scores_after(index: int) -> list[float]:
    """The scores of edited images; under one noise the first prompt is still copied."""
    return [0.05, 0.11, 0.21, 0.62 if index == 0 else 0.3 + 0.0001 * index]


def fresh_scores(index: int) -> list[float]:
    """The scores of fresh images: six copies of the first prompt, none of the others."""
    copies = [0.7] * 6 if index == 0 else []
    return [*copies, *([0.1] * (FRESH - len(copies)))]


def colour(index: int, state: int, seed: int) -> tuple[int, int, int]:
    """The colour of an image: red tells the prompt, green the state, blue the seed."""
    return 20 + 40 * (index % 5), 20 + 50 * state, 20 + 50 * seed


def mitigated_run(folder: Path, memorized: int = 3, side: int = 16) -> Run:
    """Write a run with so many memorized prompts. It has a control and an edit of neurons."""
    training = folder / "private"
    training.mkdir(parents=True)
    prompts = []
    for index, text in enumerate(texts(memorized)):
        images: tuple[Path, ...] = ()
        if index < memorized:
            path = training / f"training-{index}.png"
            _textured(300 + index, side).save(path)
            images = (path,)
        kind: Literal["VM"] | None = "VM" if index < memorized else None
        rephrased = ("another wording",) if index == 1 else ()
        prompts.append(Prompt(text, kind, images=images, paraphrases=rephrased))
    inputs = Inputs(fingerprint="v2-" + "f" * 64, dtype="torch.float32")
    run = start_run(folder / "run", prompts, SETTINGS, inputs, model="a model")
    _records(run, [prompt.text for prompt in prompts], memorized, side)
    return run


def rewritten(run: Run, change: Any) -> Run:
    """The run with another result, as a mitigation would have left it."""
    result = json.loads((run.folder / "mitigation.json").read_text())
    change(result)
    (run.folder / "mitigation.json").write_text(json.dumps(result))
    return run


def copied_by_a_paraphrase(run: Run, *, kept: bool = True) -> Run:
    """The run with two copies among the images of the other wording of prompt 1.

    Args:
        run: what is changed.
        kept: whether the copies were kept, which earlier versions did not do.
    """
    kind = f"paraphrases-{DIGEST}"
    files = [f"{kind}/00000_00.png", f"{kind}/00000_01.png"] if kept else []
    record = {"index": 0, "at": 1.0, "prompt": "another wording", "seeds": [1, 2], "copies": 2}
    record |= {"scores": [0.7, 0.8], "files": files}
    if kept:
        (run.folder / kind).mkdir()
        for shade, file in enumerate(files):
            Image.new("RGB", (16, 16), (90, 20, 50 * shade)).save(run.folder / file)
    (run.folder / f"{kind}.jsonl").write_text(json.dumps(record) + "\n")

    def change(result: Any) -> None:
        outcome = result["outcomes"][1]
        outcome["paraphrases_after"] = {"copies": 2, "seeds": 2}
        del outcome["paraphrases"]
        if kept:
            outcome["paraphrases"] = [
                {
                    "text": "another wording",
                    "before": {"copies": 1, "seeds": 2},
                    "after": {"copies": 2, "seeds": 2},
                    "files_left": files[::-1],
                    "scores_left": [0.8, 0.7],
                }
            ]

    return rewritten(run, change)


def _starts(run: Run, prompts: Sequence[str]) -> None:
    """The detector clears no start but the first of the first prompt, which is drawn."""
    starts = [start for text in prompts for start in starts_of(text)]
    if not starts:
        return
    scored = {index: _detection(start, 0.6) for index, start in enumerate(starts)}
    _lines(run, "starts", scored | {0: _detection(starts[0], 0.2)})
    drawn = ImagesRecord(prompt=starts[0], seeds=tuple(range(SEEDS)), scores=(0.1,) * SEEDS)
    _lines(run, "guide-1", {0: to_json(drawn)})


def _records(run: Run, prompts: Sequence[str], memorized: int, side: int) -> None:
    called = range(memorized + 1)
    confirmed = range(memorized)
    for index, text in enumerate(prompts):
        score = 0.3 if index > memorized else 0.6 + 0.0001 * index
        run.append("detections", index, _detection(text, score))
    before = {
        index: _images(run, "before", index, prompts[index], range(SEEDS), [], 0, side)
        for index in called
    }
    confirmations = {
        index: {
            "prompt": prompts[index],
            "measure": "image",
            "level": LEVEL,
            "scores": scores_before(index, memorized),
            "medoid": None,
            "ordinary_copies": [],
        }
        for index in called
    }
    _lines(run, "before", before)
    _lines(run, "confirmations", confirmations)
    neurons = Neurons({LAYER: [3, 5]})
    found = {index: localization(prompts[index], "VM", 0.6, neurons) for index in confirmed}
    _lines(run, "localizations", {index: record.to_json() for index, record in found.items()})
    _starts(run, [prompts[index] for index in confirmed])
    (run.folder / "differences").mkdir()
    for index in confirmed:
        _textured(index, side).save(run.folder / "differences" / f"{index:05d}.png")
    given_up = {
        index: _images(run, f"search-{OTHER}", index, prompts[index], range(2), [0.8, 0.9], 3, side)
        for index in confirmed
    }
    _lines(run, f"search-{OTHER}", given_up)
    after = {
        index: _images(
            run,
            f"after-{DIGEST}",
            index,
            prompts[index],
            range(SEEDS),
            scores_after(index),
            1,
            side,
        )
        for index in confirmed
    }
    _lines(run, f"after-{DIGEST}", after)
    fresh = {
        index: {
            "prompt": prompts[index],
            "seeds": list(range(100, 100 + FRESH)),
            "scores": fresh_scores(index),
            "copies": sum(score > LEVEL for score in fresh_scores(index)),
        }
        for index in confirmed
    }
    stopped = dict(fresh)
    if memorized:
        stopped[0] = {**fresh[0], "seeds": [100], "scores": [0.7], "copies": 1}
        kept = _images(run, COUNT, 0, prompts[0], range(6), fresh_scores(0)[:6], 4, side)
        _lines(run, COUNT, {0: {**fresh[0], "files": kept["files"]}})
    _lines(run, f"certificate-1-{DIGEST}", stopped)
    searched = {
        index: {
            "prompt": prompts[index],
            "seeds": [1, 2],
            "scores": [0.62 if index == 0 else 0.1, 0.2],
            "copies": int(index == 0),
        }
        for index in confirmed
    }
    _lines(run, f"search-{DIGEST}", searched)
    if memorized:  # a second look at the single copy
        again = {"prompt": prompts[0], "seeds": [3, 4], "scores": [0.1, 0.7], "copies": 1}
        _lines(run, f"search-{DIGEST}-again", {0: again})
    control_scores = [0.9, 0.4]
    control = {
        index: _images(
            run,
            f"control-{CONTROL}",
            index,
            prompts[index],
            range(2),
            control_scores,
            2,
            side,
        )
        for index in confirmed
    }
    _lines(run, f"control-{CONTROL}", control)
    if memorized > 1:
        for name, scores in (("before", [0.9, 0.1]), (DIGEST, [0.2, 0.1])):
            record: dict[str, Any] = {
                "prompt": "another wording",
                "seeds": [1, 2],
                "scores": scores,
            }
            record["copies"] = sum(score > LEVEL for score in scores)
            _lines(run, f"paraphrases-{name}", {0: record})
    ordinary = {kind: _ordinary(run, kind) for kind in ("before", DIGEST, CONTROL)}
    written = [
        _outcome(index, text, memorized, before, after, control)
        for index, text in enumerate(prompts)
    ]
    result = {
        "outcomes": written,
        "ladder": "neurons",
        "edit": DIGEST,
        "ordinary": _change(ordinary["before"], ordinary[DIGEST]),
        "ordinary_control": _change(ordinary["before"], ordinary[CONTROL], SAMPLE),
        "budget": 0.1,
        "together": None,
        "candidates": [
            {
                "ladder": "neurons",
                "digest": DIGEST,
                "copying": 1,
                "change": _change(ordinary["before"], ordinary[DIGEST], SAMPLE),
            }
        ],
    }
    run.write("mitigation.json", json.dumps(result))
    file = EditFile(edit=NeuronEdit(neurons), model="a model", fingerprint="v2-" + "f" * 64)
    file.save(run.folder / "edit.json")
    loaded = MitigationResult.load(run)
    outcomes = tuple(map(replace, loaded.outcomes))  # with all fields, as a mitigation writes them
    run.write("mitigation.json", json.dumps(replace(loaded, outcomes=outcomes).to_json()))


def _outcome(
    index: int,
    text: str,
    memorized: int,
    before: Mapping[int, Any],
    after: Mapping[int, Any],
    control: Mapping[int, Any],
) -> dict[str, Any]:
    outcome: dict[str, Any] = {"index": index, "prompt": text, "group": "unlabelled"}
    outcome["score"] = 0.3 if index > memorized else 0.6 + 0.0001 * index
    if index > memorized:
        return {**outcome, "status": "not tested", "verdict": "not tested"}
    scores = scores_before(index, memorized)
    outcome |= {
        "measure": "image",
        "level": LEVEL,
        "before": {"copies": sum(score > LEVEL for score in scores), "seeds": SEEDS},
        "worst_before": max(scores),
        "files_before": before[index]["files"],
        "alignment_before": float(np.median(before[index]["alignment"])),
    }
    if index == memorized:
        return {**outcome, "status": "not confirmed", "verdict": "not confirmed"}
    copies = sum(score > LEVEL for score in fresh_scores(index))
    # 0.5^12 < 0.05, while 6 of 12 copies exclude nothing; 1 - 0.05^(1/12) = 0.2209
    verdict = "removed (0 of 12, at most 22.1 % at 95 %)"
    outcome |= {
        "group": "VM",
        "status": "not removed" if copies else "removed",
        "verdict": f"not removed ({copies} of {FRESH})" if copies else verdict,
        "after": {"copies": copies, "seeds": FRESH},
        "bound": float(beta.ppf(0.95, copies + 1, FRESH - copies)),
        "confidence": 0.95,
        "first": {"copies": copies, "seeds": FRESH},
        "files_after": after[index]["files"],
        "scores_after": after[index]["scores"],
        "alignment_after": float(np.median(after[index]["alignment"])),
        "files_control": control[index]["files"],
        "scores_control": control[index]["scores"],
        "rung": "complete neurons at 0",
    }
    if copies:
        outcome["files_left"] = [f"{COUNT}/00000_{number:02d}.png" for number in range(copies)]
        outcome["scores_left"] = fresh_scores(index)[:copies]
    if index == 1:
        outcome["paraphrases_before"] = {"copies": 1, "seeds": 2}
        outcome["paraphrases_after"] = {"copies": 0, "seeds": 2}
    return outcome


def _detection(text: str, score: float) -> dict[str, Any]:
    return {
        "prompt": text,
        "group": "",
        "score": score,
        "tau": 0.5,
        "memorized": score > 0.5,
        "seeds": 10,
        "evaluations": 10,
        "seconds": 0.1,
    }


def _images(
    run: Run,
    kind: str,
    index: int,
    text: str,
    seeds: range,
    scores: Sequence[float],
    state: int,
    side: int,
) -> dict[str, Any]:
    """Write images of a prompt and return their record."""
    files = [f"{kind}/{index:05d}_{seed:02d}.png" for seed in seeds]
    (run.folder / kind).mkdir(exist_ok=True)
    for seed, name in zip(seeds, files, strict=True):
        image = _textured(1000 * state + 10 * index + seed, side)
        image.paste(colour(index, state, seed), (0, 0, side // 2, side // 2))
        image.save(run.folder / name)
    return {
        "prompt": text,
        "seeds": list(seeds),
        "scores": list(scores),
        "copies": sum(score > LEVEL for score in scores),
        "alignment": [0.2 + 0.01 * seed + 0.02 * state + 0.0001 * index for seed in seeds],
        "files": files,
    }


def _textured(seed: int, side: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def _ordinary(run: Run, kind: str) -> dict[str, Any]:
    """Write images of ordinary captions and return their vectors, pixels and alignment."""
    state = ("before", DIGEST, CONTROL).index(kind)
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(ORDINARY, 8)).astype(np.float32)
    vectors[: 2 * state] *= -1  # these images change
    vectors += 0.2 * state * np.random.default_rng(state).normal(size=vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    name = f"ordinary-{kind}"
    (run.folder / name).mkdir()
    alignment = [0.3 + 0.001 * number - 0.002 * state for number in range(ORDINARY)]
    pixels, records = [], {}
    for number in range(ORDINARY):
        image = _textured(5000 + number, 8)
        image.putpixel((0, 0), (200 - 90 * state, 10, 10))
        file = f"{name}/{number:05d}.png"
        image.save(run.folder / file)
        pixels.append(np.asarray(image, np.float64))
        records[number] = {
            "caption": f"caption {number}",
            "seed": number,
            "file": file,
            "embedding": base64.b64encode(vectors[number].tobytes()).decode(),
            "features": "",
            "alignment": alignment[number],
        }
    _lines(run, name, records)
    return {"name": name, "vectors": vectors, "pixels": pixels, "alignment": alignment}


def _change(
    before: Mapping[str, Any], after: Mapping[str, Any], images: int = ORDINARY
) -> dict[str, Any]:
    """What the first images of ordinary captions change."""
    similarity = (before["vectors"] * after["vectors"])[:images].sum(1)
    correlations = []
    for first, second in list(zip(before["pixels"], after["pixels"], strict=True))[:images]:
        a, b = first - first.mean((0, 1)), second - second.mean((0, 1))
        correlations.append((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    worst = [int(number) for number in similarity.argsort()[:8]]
    return {
        "images": images,
        "changed": int((similarity < 0.5).sum()),
        "similarity": float(np.sort(similarity)[(images - 1) // 2]),
        "correlation": float(np.median(correlations)),
        "worst": float(similarity.min()),
        "shown": [
            [
                f"caption {number}",
                f"{before['name']}/{number:05d}.png",
                f"{after['name']}/{number:05d}.png",
            ]
            for number in worst
        ],
        "alignment_before": float(np.median(before["alignment"][:images])),
        "alignment_after": float(np.median(after["alignment"][:images])),
    }


def _lines(run: Run, kind: str, records: Mapping[int, Mapping[str, Any]]) -> None:
    lines = [
        json.dumps({"index": index, "at": 1000.0 + index, **to_json(record)})
        for index, record in records.items()
    ]
    if lines:
        (run.folder / f"{kind}.jsonl").write_text("".join(f"{line}\n" for line in lines))
