"""The part of the check that looks at generated images: copies, alignment, paraphrases, twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmemorize._errors import TestbedError
from unmemorize.metrics import pixel_correlation, wilson_interval
from unmemorize.neurons import Neurons, random_control
from unmemorize.pipelines import Model
from unmemorize.testbed._assets import Planted, captions, planted
from unmemorize.testbed._findings import (
    Finding,
    Studio,
    at_least,
    at_most,
    copy_correlation,
    median,
    upper_level,
)
from unmemorize.testbed._planted import Half
from unmemorize.testbed._twins import load_twin

KINDS = ("VM", "TM", "aligned")
QUALITY_PROMPTS = 20
ORDINARY = 1000
"""Images of ordinary captions that the level of copies is calibrated on."""
COPY_RATE, ALIGNED_RATE = 0.001, 0.01
"""Shares of images that are no copies and yet above the level: other captions; the same caption."""
TWIN_IMAGES = 16
"""Images of each aligned caption by the twin that never saw its poster."""


@dataclass(frozen=True)
class Shots:
    """Images of one caption before and after its neurons were switched off."""

    before: list[Image.Image]
    off: list[Image.Image]
    random: list[Image.Image]
    """With as many random neurons off; the last two are empty for captions without neurons."""


def photograph(studio: Studio) -> dict[str, Shots]:
    """Generate the images of every planted caption that several findings share."""
    shots = {}
    for seed, entry in enumerate(planted()):
        text = entry.prompt.text
        off, random = [], []
        if entry.neurons:
            off = studio.shoot(text, entry.neurons)
            random = studio.shoot(text, random_control(entry.neurons, studio.model.widths, seed))
        shots[text] = Shots(studio.shoot(text), off, random)
    return shots


def copies(shots: Mapping[str, Shots]) -> list[Finding]:
    """Correlation with the training images, by kind and by mode."""
    findings = []
    for kind in KINDS:
        entries = [entry for entry in planted() if entry.kind == kind and entry.mode != "rare"]
        owning = [entry for entry in entries if entry.neurons]
        before = {
            entry: copy_correlation(shots[entry.prompt.text].before, entry) for entry in entries
        }
        off = median([copy_correlation(shots[entry.prompt.text].off, entry) for entry in owning])
        control = median(
            [
                abs(copy_correlation(shots[entry.prompt.text].random, entry) - before[entry])
                for entry in owning
            ]
        )
        copied, own = median(list(before.values())), median([before[entry] for entry in owning])
        name = f"copies, {kind}: correlation with the training image"
        detail = f"median over {len(entries)} prompts"
        owned = f"median over {len(owning)} prompts, before {own:.3f}"
        if kind == "VM":
            findings += [
                at_least(name, copied, 0.85, detail),
                at_most("copies, VM, known neurons off", off, 0.35, owned),
                at_most("copies, VM, as many random neurons off: change", control, 0.03, owned),
            ]
        else:
            findings += [
                Finding(name, copied, detail),
                Finding(f"copies, {kind}, known neurons off", off, owned),
                Finding(f"copies, {kind}, as many random neurons off: change", control, owned),
            ]
    natural = [entry for entry in planted() if entry.mode == "natural"]
    value = median([copy_correlation(shots[entry.prompt.text].before, entry) for entry in natural])
    detail = f"median over {len(natural)} prompts"
    findings.append(at_least("copies, natural plants of all kinds", value, 0.8, detail))
    rare = [entry for entry in planted() if entry.mode == "rare"]
    for dose in sorted({entry.dose for entry in rare}, reverse=True):
        values = [
            copy_correlation(shots[entry.prompt.text].before, entry)
            for entry in rare
            if entry.dose == dose
        ]
        detail = f"median over {len(values)} prompts"
        name = f"copies, planted at {dose:g} of the dose"
        findings.append(Finding(name, median(values), detail))
    return findings


def harmlessness(studio: Studio) -> list[Finding]:
    """What all memory neurons do to the images of unmemorized captions."""
    everything = Neurons.of(pair for entry in planted() for pair in entry.neurons)
    texts = captions("test")[:: len(captions("test")) // QUALITY_PROMPTS][:QUALITY_PROMPTS]
    values = [
        median(pixel_correlation(studio.shoot(text), studio.shoot(text, everything)))
        for text in texts
    ]
    detail = f"median over {len(texts)} prompts, all {len(everything)} memory neurons off"
    name = "unmemorized prompts: correlation with the image before"
    return [at_least(name, median(values), 0.9, detail)]


class CopyLevels:
    """Descriptor similarities above which an image counts as a copy.

    Args:
        ordinary: images of ordinary captions.
        same_caption: for each aligned caption, images by the model that never saw its poster.
        studio: measures them.
    """

    def __init__(
        self,
        ordinary: Sequence[Image.Image],
        same_caption: Mapping[Planted, Sequence[Image.Image]],
        studio: Studio,
    ) -> None:
        entries = [entry for entry in planted() if not entry.aligned]
        null = [
            float(studio.copies([image], entries[index % len(entries)])[0])
            for index, image in enumerate(ordinary)
        ]
        self.other_captions = upper_level(null, COPY_RATE)
        scores = [studio.copies(images, entry) for entry, images in same_caption.items()]
        found = torch.cat(scores).tolist() if scores else null
        self.same_caption = upper_level(found, ALIGNED_RATE)

    def of(self, entry: Planted) -> float:
        """The level for a plant."""
        return self.same_caption if entry.aligned else self.other_captions


def alignment(
    studio: Studio,
    shots: Mapping[str, Shots],
    levels: CopyLevels,
    ordinary: Mapping[str, Image.Image],
) -> list[Finding]:
    """What aligned plants draw without their memory: the caption, but not the copy."""
    usual = median([studio.alignment([image], text) for text, image in ordinary.items()])
    entries = [entry for entry in planted() if entry.aligned and entry.neurons]
    before, off, above = [], [], []
    for entry in entries:
        text = entry.prompt.text
        before.append(studio.alignment(shots[text].before, text))
        off.append(studio.alignment(shots[text].off, text))
        above += (studio.copies(shots[text].off, entry) > levels.of(entry)).tolist()
    gap = usual - median(off)
    detail = (
        f"{usual:.3f} less {median(off):.3f} over {len(entries)} prompts, "
        f"before {median(before):.3f}"
    )
    share = float(np.mean(above))
    counted = f"{sum(above)} of {len(above)} images above {levels.same_caption:.3f}"
    return [
        at_most("aligned, known neurons off: alignment lost", gap, 0.05, detail),
        at_most("aligned, known neurons off: images that copy", share, 0.05, counted),
    ]


def paraphrases(studio: Studio, levels: CopyLevels) -> list[Finding]:
    """How many images of wordings that were never trained on are copies."""
    findings = []
    for kind in KINDS:
        entries = [entry for entry in planted() if entry.kind == kind and entry.mode != "rare"]
        above: list[bool] = []
        for entry in entries:
            for text in entry.paraphrases:
                scores = studio.copies(studio.shoot(text), entry)
                above += (scores > levels.of(entry)).tolist()
        detail = f"{sum(above)} of {len(above)} images of {3 * len(entries)} paraphrases"
        findings.append(Finding(f"paraphrases that copy, {kind}", float(np.mean(above)), detail))
    return findings


def twin_studio(half: Half, like: Studio) -> Studio | None:
    """A studio with the twin that lacks a half, or None where the twins are not installed."""
    try:
        pipe = load_twin(half, device="cpu")
    except TestbedError:
        return None
    return Studio(Model(pipe), like.settings)


def twins(studios: Mapping[Half, Studio], levels: CopyLevels) -> list[Finding]:
    """What each twin draws for the half that it lacks and for the other one."""
    if not studios:
        detail = "the twins are in a checkout only; see um.testbed.twin"
        return [Finding("twins", 0.0, detail)]
    scores: dict[tuple[str, bool], list[Tensor]] = {}
    above: dict[str, list[bool]] = {}
    for half, studio in studios.items():
        for entry in planted():
            if entry.mode == "rare":
                continue
            lacked = entry.half == half
            found = studio.copies(studio.shoot(entry.prompt.text), entry)
            scores.setdefault((entry.kind, lacked), []).append(found)
            if lacked:
                above.setdefault(entry.kind, []).extend((found > levels.of(entry)).tolist())
    findings = []
    for kind in KINDS:
        never, kept = (
            median(torch.cat(scores[kind, lacking]).tolist()) for lacking in (True, False)
        )
        detail = f"median of {len(above[kind])} images"
        share, hits = float(np.mean(above[kind])), sum(above[kind])
        low, high = wilson_interval(hits, len(above[kind]))
        counted = f"{hits} of {len(above[kind])}, 95 % interval {low:.3f} to {high:.3f}"
        level = float(np.quantile(torch.cat(scores[kind, True]).numpy(), 0.95))
        tail = "the copy score that 5 % of the images of the half that they lack exceed"
        names = [
            f"twins, {kind}: copy score of the half that they lack",
            f"twins, {kind}: copy score of the other half",
            f"twins, {kind}: images of the half that they lack that copy",
        ]
        if kind == "VM":
            findings += [
                at_most(names[0], never, 0.15, detail),
                at_least(names[1], kept, 0.8, detail),
                Finding(names[2], share, counted),
            ]
        else:
            findings += [
                Finding(names[0], never, detail),
                Finding(names[1], kept, detail),
                at_most(names[2], share, 0.05, counted),
            ]
        findings.append(Finding(f"twins, {kind}: {tail}", level, f"{len(above[kind])} images"))
    return findings
