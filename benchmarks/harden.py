"""The frontier of hardening on the bundled model: what attacks bring back, and what it costs.

Call: python benchmarks/harden.py [--plants 0 16] [--choices all cross-attention] ...

Each choice of weights hardens the named planted images together (all of them by default), judges
them by attacks that training never saw, and measures ordinary images. A run that was stopped
resumes in WORK. One record for each choice and set of plants goes to records/harden.json. Seconds
of attacks and training are those of a card where there is one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmemorize import (
    AuditSettings,
    ClosedFormEdit,
    CombinedEdit,
    Edit,
    Erased,
    GenerationSettings,
    HardeningResult,
    HardeningSettings,
    Model,
    NeuronEdit,
    Neurons,
    OrdinaryCaptions,
    Run,
    harden,
    testbed,
)
from unmemorize.audit import AuditResult
from unmemorize.hardening import AUDIT

CHOICES: dict[str, dict[str, Any]] = {
    "all": {},
    "all, distillation": {"objective": "distillation"},
    "all, half rate": {"rate": 1e-4},
    "all, three starts": {"starts": ("prompt", "noise", "other")},
    "cross-attention": {"weights": "cross-attention"},
    "down blocks": {"weights": "down_blocks.*"},
    "middle block": {"weights": "mid_block.*"},
    "up blocks": {"weights": "up_blocks.*"},
    "LoRA of rank 8": {"rank": 8},
    "LoRA of rank 32": {"rank": 32},
}
"""Settings that differ from the defaults."""
RECORDS = Path(__file__).parent / "records" / "harden.json"
_ERASE = 10.0


def substituting(model: Model, entries: Sequence[testbed.Planted]) -> Edit:
    """Return what takes the copies out: known neurons off, and captions moved in closed form."""
    erased = tuple(Erased(entry.prompt.text, weight=_ERASE) for entry in entries)
    closed = ClosedFormEdit(erased, OrdinaryCaptions.of(model).keep)
    neurons = Neurons.of(neuron for entry in entries for neuron in entry.neurons)
    return CombinedEdit((closed, NeuronEdit(neurons))) if neurons else closed


def record_of(
    result: HardeningResult, audit: AuditResult, entries: Sequence[testbed.Planted]
) -> dict[str, Any]:
    """Return what a hardening reached, image by image, and its price."""
    ordinary, verdict = result.ordinary, result.verdict
    images = [image for image in audit.images if image.attack == verdict.attack]
    rounds = [
        {
            "attack_seconds": sum(a.seconds for a in result.attacks if a.round == number + 1),
            "training_seconds": each.seconds,
            "attack_scores": [max(a.scores) for a in result.attacks if a.round == number + 1],
        }
        for number, each in enumerate(result.rounds)
    ]
    return {
        "plants": [
            {"prompt": entry.prompt.text, "mode": entry.mode, "kind": entry.prompt.kind}
            for entry in entries
        ],
        "rounds": rounds,
        "scores": [image.scores[-1] for image in images if image.arm == "edited"],
        "control_scores": [image.scores[-1] for image in images if image.arm == "never-trained"],
        "budget": verdict.budget,
        "tau": verdict.tau,
        "false_triggers": verdict.false_triggers,
        "held": result.held,
        "judged": verdict.images,
        "ordinary": {
            "images": ordinary.images,
            "changed": ordinary.changed,
            "similarity": ordinary.similarity,
            "correlation": ordinary.correlation,
            "worst": ordinary.worst,
            "alignment_before": ordinary.alignment_before,
            "alignment_after": ordinary.alignment_after,
            "clip_fid_before": ordinary.clip_fid_before,
            "clip_fid": ordinary.clip_fid,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plants", type=int, nargs="*", help="positions; by default all")
    parser.add_argument("--choices", nargs="*", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--controls", type=int, help="never-trained images; by default all")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of each judging attack")
    parser.add_argument("--images", type=int, default=8, help="images of each embedding")
    parser.add_argument("--steps", type=int, default=30, help="steps of each image")
    parser.add_argument("--ordinary", type=int, default=1000, help="ordinary images")
    parser.add_argument("--work", type=Path, default=Path("harden-runs"))
    options = parser.parse_args()
    model = Model.load("testbed", dtype="float32")
    planted = [entry for entry in testbed.planted() if entry.mode != "rare"]
    entries = [planted[place] for place in options.plants] if options.plants else planted
    controls = [photograph.image for photograph in testbed.unused()][: options.controls]
    name = "-".join(map(str, options.plants)) if options.plants else "all"
    for choice in options.choices:
        settings = HardeningSettings.of(
            model,
            **CHOICES[choice],
            ordinary_images=options.ordinary,
            audit=AuditSettings(
                levels=("L4",),
                steps=(0, 50),
                seeds=options.seeds,
                images=options.images,
                arms=("edited", "never-trained"),
                generation=GenerationSettings(
                    steps=options.steps, guidance=testbed.defaults()["guidance"]
                ),
            ),
        )
        folder = options.work / f"{name}-{choice.replace(' ', '-').replace(',', '')}"
        began = time.process_time()
        result = harden(
            model,
            substituting(model, entries),
            [entry.prompt for entry in entries],
            controls=controls,
            settings=settings,
            folder=folder,
        )
        record = record_of(result, AuditResult.load(Run.load(folder / AUDIT)), entries)
        asked = {key: getattr(options, key) for key in ("seeds", "images", "steps")}
        processor = round(time.process_time() - began, 1)
        record = {
            "model": model.fingerprint,
            "choice": choice,
            "asked": asked,
            "processor_seconds_of_this_call": processor,
            **record,
        }
        add(record)
        print(f"{choice}: {result.headline}", flush=True)


def add(record: dict[str, Any]) -> None:
    """Put a record in place of an earlier one of the same question."""
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else []
    same = ("model", "choice", "asked", "plants")
    kept = [each for each in records if any(each[key] != record[key] for key in same)]
    RECORDS.write_text(json.dumps([*kept, record], indent=1) + "\n")


if __name__ == "__main__":
    main()
