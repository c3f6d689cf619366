"""How much copy each method leaves of planted prompts of the bundled model, over its strengths.

python benchmarks/methods.py --json FILE [--only NAME ...] [--prompts TEXT ...] [--seeds N] [--grid]

For each prompt and method the script draws images and prints their copy score (the highest cosine
of the copy descriptor to a training image; median and worst seed) and their alignment with the
prompt (A_CLIP of the bundled CLIP, median). "none" is the unedited model. By default each method
has its default strength; --grid draws its whole grid. The same command again does only what FILE
lacks. It shows that each method does something. Methods are compared fairly only over their
strengths and with their side effects. Seconds are those of a card where there is one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

import unmemorize as um
from unmemorize.generation import Change
from unmemorize.localization import RefinementMethod
from unmemorize.methods import MITIGATIONS, Mitigation, Suspect, at_strength, method_of
from unmemorize.metrics import read_image

PROMPTS = ("fundus photograph of healthy retina", "swinging pendulum motion blur experiment")
"""One whose neurons are known, and one that was memorized naturally."""
SEED = 7
_KEPT = 64
"""Calibration captions that edits leave alone."""
_NEURONS: dict[str, RefinementMethod] = {
    "neurons": "complete",
    "neurons-bisect": "bisect",
    "neurons-greedy": "greedy",
}


@dataclass(frozen=True)
class Row:
    """What one method at one strength leaves of one prompt's copy."""

    prompt: str
    method: str
    strength: float
    seeds: int
    copy: float
    worst: float
    alignment: float
    fit_seconds: float
    seconds: float

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What tells rows apart."""
        return self.prompt, self.method, self.strength, self.seeds


def main(
    names: Sequence[str], prompts: Sequence[str], seeds: int, *, grid: bool, file: Path
) -> None:
    torch.set_num_threads(1)
    done = {row.key for row in rows_in(file)}
    model = um.Model.load("testbed", dtype="float32")
    defaults = um.testbed.defaults()
    settings = um.GenerationSettings(
        images=seeds, seed=SEED, steps=defaults["steps"], guidance=defaults["guidance"]
    )
    planted = {entry.prompt.text: entry.prompt for entry in um.testbed.planted()}
    for text in prompts:
        prompt = planted[text]
        for name in names:
            method = None if name == "none" else method_of(name)
            for strength in strengths(method, grid=grid):
                key = (text, name, strength, seeds)
                if key in done:
                    continue
                row = measured(model, prompt, name, method, strength, settings)
                show(row)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(row)) + "\n")


def rows_in(file: Path) -> list[Row]:
    """Read the rows of a file; none if there is no file."""
    if not file.exists():
        return []
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def strengths(method: Mitigation | None, *, grid: bool) -> tuple[float, ...]:
    """Return the strengths to draw."""
    if method is None:
        return (0.0,)
    return method.grid if grid else (method.strength,)


def measured(
    model: um.Model,
    prompt: um.Prompt,
    name: str,
    method: Mitigation | None,
    strength: float,
    settings: um.GenerationSettings,
) -> Row:
    """Fit a method, draw images under it and score them."""
    began = time.perf_counter()
    change: Change | None = None
    if method is not None:
        suspect = Suspect(
            prompt=prompt,
            localizations=localizations(model, prompt, name),
            ordinary=um.testbed.captions("calibration")[:_KEPT],
            settings=settings,
        )
        change = at_strength(method, strength).fit(model, suspect)
    fitted = time.perf_counter()
    images = um.generate(model, prompt, change, settings=settings)
    drawn = time.perf_counter()
    descriptor = um.BundledDescriptor()
    references = descriptor([read_image(file) for file in prompt.images])
    scores = um.copy_scores(descriptor(images), references).tolist()
    alignment = um.ClipAlignment()(images, prompt.text).tolist()
    return Row(
        prompt.text,
        name,
        strength,
        settings.images,
        median(scores),
        max(scores),
        median(alignment),
        fitted - began,
        drawn - fitted,
    )


def localizations(model: um.Model, prompt: um.Prompt, name: str) -> tuple[um.Localization, ...]:
    """Localize the prompt, if the method needs it."""
    if name not in _NEURONS:
        return ()
    threshold = um.Threshold.load(um.testbed.threshold_path())
    settings = um.LocalizationSettings(
        noise=threshold.settings,
        criterion=um.testbed.defaults()["criterion"],
        refinement=_NEURONS[name],
    )
    return (
        um.localize(
            model,
            prompt,
            statistics=um.Statistics.load(um.testbed.statistics_path()),
            threshold=threshold,
            settings=settings,
        ),
    )


def show(row: Row) -> None:
    print(
        f"{row.prompt[:28]:28} {row.method:18} {row.strength:6g}  copy {row.copy:5.2f} "
        f"(worst {row.worst:5.2f})  alignment {row.alignment:.3f}  "
        f"fit {row.fit_seconds:5.1f} s  draw {row.seconds:5.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, dest="file", required=True, help="file of the rows")
    parser.add_argument("--only", nargs="+", default=["none", *MITIGATIONS.names()])
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seeds", type=int, default=4, help="images of each prompt")
    parser.add_argument("--grid", action="store_true", help="draw all strengths of each method")
    arguments = parser.parse_args()
    main(
        arguments.only,
        arguments.prompts,
        arguments.seeds,
        grid=arguments.grid,
        file=arguments.file,
    )
