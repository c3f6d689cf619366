"""What a fine-tuned denoiser ends and costs, beside closed forms to the same guides.

python benchmarks/fine_tuning.py [--seeds N] [--ordinary N] --json FILE

All plants of full dose of the bundled model are edited together. Each is led to the calibration
caption that the model encodes most like it, which nobody has looked at: what these captions draw
themselves stands first, as the floor. For each edit the script counts images that copy (the copy
descriptor is more similar to a training image than .5), and compares images of ordinary test
captions with unedited ones of the same noise. CLIP-FID is that to unedited images of other noise,
as a multiple of what unedited images have. FILE keeps what is measured, edit by edit, and the same
command measures the rest (an hour and a quarter on one slow core).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import unmemorize as um
from closed_form import change, images
from unmemorize.methods import fine_tuned_denoiser
from unmemorize.metrics import BundledDescriptor, copy_scores, quality, read_image

COPY = 0.5
"""Similarity above which an image counts as a copy."""
_ROW = "| {name} | {copied} of {images} | {prompts} of {plants} | {alignment:.2f} |"
_SIDE = " {changed:.1%} | {correlation:.2f} | {clip_fid:.2f} | {seconds:.0f} |"


def guides_of(model: um.Model, texts: Sequence[str], captions: Sequence[str]) -> list[str]:
    """Return the caption that is encoded most like each text."""
    own, others = (model.encode(list(some)).text.flatten(1) for some in (texts, captions))
    return [captions[place] for place in torch.cdist(own, others).argmin(1).tolist()]


class Measured:
    """What edits are measured with.

    Args:
        model: the bundled model.
        seeds: images of each plant.
        ordinary: how many ordinary captions.
    """

    def __init__(self, model: um.Model, seeds: int, ordinary: int) -> None:
        self.model, self.seeds = model, seeds
        self.plants = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
        self.texts = [entry.prompt.text for entry in self.plants]
        self.captions = um.testbed.captions("test")[:ordinary]
        self.clip, self.descriptor = um.ClipAlignment(), BundledDescriptor()
        both = images(model, self.captions, None, 2)
        self.before = [[first] for first, _ in both]
        self.other = self.clip.features([second for _, second in both])

    def copies(self, texts: Sequence[str], edit: um.Edit | None) -> dict[str, Any]:
        """Count images of texts that copy the image of the plant at their place."""
        scores, cosines = [], []
        drawn = images(self.model, texts, edit, self.seeds)
        for entry, some in zip(self.plants, drawn, strict=True):
            training = self.descriptor([read_image(file) for file in entry.prompt.images])
            scores.append(copy_scores(self.descriptor(some), training).tolist())
            cosines += self.clip(some, entry.prompt.text).tolist()
        return {
            "copied": sum(score > COPY for some in scores for score in some),
            "images": sum(map(len, scores)),
            "prompts": sum(max(some) > COPY for some in scores),
            "plants": len(self.plants),
            "alignment": float(torch.tensor(cosines, dtype=torch.float64).median()),
        }

    def side_effects(self, edit: um.Edit) -> dict[str, float]:
        """Compare ordinary images with unedited ones."""
        after = images(self.model, self.captions, edit, 1)
        fid, unedited = (
            quality(self.clip.features([image for (image,) in some]), self.other).fid
            for some in (after, self.before)
        )
        return change(self.before, after) | {"clip_fid": fid / unedited}


def main(seeds: int, ordinary: int, output: Path) -> None:
    torch.set_num_threads(1)
    rows: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    model = um.Model.load("testbed", dtype="float32")
    measured, keep = Measured(model, seeds, ordinary), um.testbed.captions("calibration")
    guides = guides_of(model, measured.texts, keep)
    defaults = um.testbed.defaults()
    settings = replace(
        um.GenerationSettings(), steps=defaults["steps"], guidance=defaults["guidance"]
    )

    def erased(weight: float) -> tuple[um.Erased, ...]:
        return tuple(
            um.Erased(text, weight, guide)
            for text, guide in zip(measured.texts, guides, strict=True)
        )

    edits: Mapping[str, Callable[[], um.Edit]] = {
        "fine-tuning, weight 1": lambda: fine_tuned_denoiser(model, erased(1.0), keep, settings),
        "closed form, weight 10": lambda: um.ClosedFormEdit(erased(10.0), keep[:320]),
        "closed form, weight 3": lambda: um.ClosedFormEdit(erased(3.0), keep[:320]),
    }
    for name, texts in {"unedited": measured.texts, "guides, unedited": guides}.items():
        if name not in rows:
            rows[name] = measured.copies(texts, None)
            show(output, rows, name)
    for name, make in edits.items():
        if name not in rows:
            began = time.perf_counter()
            edit = make()
            edit.changes(model)
            seconds = time.perf_counter() - began
            row = measured.copies(measured.texts, edit) | measured.side_effects(edit)
            rows[name] = row | {"seconds": seconds}
            show(output, rows, name)


def show(output: Path, rows: Mapping[str, Any], name: str) -> None:
    """Keep what is measured, and print the last row."""
    output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    row = rows[name]
    side = _SIDE if "seconds" in row else " | | | |"
    print((_ROW + side).format(name=name, **row), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="images of each plant")
    parser.add_argument("--ordinary", type=int, default=200, help="ordinary captions")
    parser.add_argument("--json", type=Path, required=True, dest="output", help="file of numbers")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.ordinary, arguments.output)
