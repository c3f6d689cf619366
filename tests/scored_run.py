"""A run written by hand, in which all numbers differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from records import LAYER, add_scored_images, localization, localized_run
from unmemorize import Neurons, Prompt, Run

MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
UP = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
NEURONS = {
    0: Neurons({LAYER: [1, 2, 3]}),
    1: Neurons({LAYER: [2], MIDDLE: [5], UP: [1, 4, 6, 7]}),
    2: Neurons({LAYER: [9]}),
    5: Neurons({LAYER: range(20, 32)}),
}
"""The neurons of memorized prompts."""
SCORES: dict[str, dict[int, dict[str, Any]]] = {
    "original": {
        0: {"sscd-orig": [0.7, 0.99, 0.9], "sscd-gen": [1.0] * 3, "d-sscd": 0.81},
        1: {"sscd-orig": [0.6, 0.8, 0.97], "sscd-gen": [1.0] * 3, "d-sscd": 0.92},
        2: {
            "sscd-orig": [0.05, 0.3, 0.2],
            "masked-copy": [0.8, 0.94, 0.91],
            "sscd-gen": [1.0] * 3,
            "d-sscd": 0.5,
        },
        5: {"sscd-gen": [1.0] * 3, "d-sscd": 0.4},
    },
    "refined": {
        0: {
            "sscd-orig": [0.1, 0.75, 0.2],
            "sscd-gen": [0.31, 0.05, 0.22],
            "d-sscd": 0.13,
            "a-clip": [0.11, 0.35, 0.3],
        },
        1: {
            "sscd-orig": [-0.1, 0.4, 0.05],
            "sscd-gen": [0.41, 0.15, 0.36],
            "d-sscd": 0.24,
            "a-clip": [0.2, 0.45, 0.38],
        },
        2: {
            "sscd-orig": [0.01, 0.09, 0.04],
            "masked-copy": [0.2, 0.88, 0.33],
            "sscd-gen": [0.5, 0.61, 0.57],
            "d-sscd": 0.39,
            "a-clip": [0.15, 0.29, 0.22],
        },
        5: {"sscd-gen": [0.9, 0.95, 0.93], "d-sscd": 0.37, "a-clip": [0.6, 0.5, 0.55]},
    },
    "random-refined": {
        0: {"sscd-orig": [0.68, 0.98, 0.89], "sscd-gen": [0.95, 0.99, 0.97], "d-sscd": 0.8},
        1: {"sscd-orig": [0.58, 0.78, 0.66], "sscd-gen": [0.94, 0.98, 0.96], "d-sscd": 0.91},
    },
}


def prompts_of_run(folder: Path) -> list[Prompt]:
    """Seven prompts; the last one is not localized. The first two name a training image."""
    for number, red in enumerate((250, 120)):
        Image.new("RGB", (40, 20), (red, 5, 5)).save(folder / f"training{number}.png")
    return [
        Prompt("prompt zero", "VM", images=(folder / "training0.png",)),
        Prompt("prompt one", "VM", images=(folder / "training1.png",)),
        Prompt("prompt two", "TM"),
        Prompt("prompt three", "VM"),
        Prompt("prompt four", group="unmemorized"),
        Prompt("prompt five", group="unmemorized"),
        Prompt("prompt six", "VM"),
    ]


def scored_run(folder: Path) -> Run:
    """A run with metrics of four memorized prompts, two others, and one that is not localized."""
    prompts = prompts_of_run(folder)
    records = {
        index: localization(
            prompt.text,
            prompt.group,
            (0.81, 0.77, 0.69, 0.35, 0.21, 0.45)[index],
            NEURONS.get(index),
            seconds=float(index + 1),
            theta_exhausted=(True, False, True, None, None, None)[index],
        )
        for index, prompt in enumerate(prompts[:6])
    }
    run = localized_run(folder / "run", prompts, records)
    add_scored_images(run, SCORES)
    return run
