"""Whether an early denoising step tells that an edit leaves an ordinary image as it was.

python benchmarks/early_verdicts.py RUN [--images N] [--steps N] [--latents FILE]

RUN is a mitigation of the bundled model, see benchmarks/mitigation.py. Its finished images of
ordinary captions before and after each edit tell which of them changed. Their first steps are drawn
again, and the latents are compared with those before the edit. For each step, a rule calls an image
unchanged if its distance from before is below a level, and stops drawing it. Prints what images
before and after then cost, in units of one image, if the level lets a rule be wrong about so many
of all images; 2 is no saving. The last column says how often the rule that is never wrong on one
half of the images is wrong on the other half (mean of 1000 random halves).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundled_mitigation import BundledMitigation
from unmemorize.generation import Edit, _generate, generate_each
from unmemorize.mitigation import Stages, mitigate_all
from unmemorize.mitigation._ordinary import CHANGED, ordinary_items, read_ordinary
from unmemorize.mitigation._stages import SAME

_BEFORE = "ordinary-before"
WRONG = (0.0, 0.0025, 0.005, 0.01, 0.02)
_HALVES = 1000
Drawn = dict[str, Tensor]
"""Records' name -> latents after each of the first steps, (images, steps, C, H, W)."""


@dataclass(frozen=True)
class Edited:
    """The edits of a run whose images of ordinary captions are there, and these captions."""

    edits: dict[str, Edit | None]
    captions: tuple[str, ...]


class _UnfinishedError(Exception):
    """The run would have to draw images."""


def main(folder: Path, images: int, steps: int, latents: Path) -> None:
    opened = BundledMitigation.opened(folder)
    edited = edits_of(opened)
    drawn = first_steps(opened, edited, images, steps, latents)
    before = read_ordinary(opened.run, _BEFORE, images)
    distances, changed = [], []
    for kind in drawn.keys() - {_BEFORE}:
        after = read_ordinary(opened.run, kind, images)
        similarity = (before.embeddings[: len(after)] * after.embeddings).sum(1)
        changed.append((similarity < CHANGED).numpy())
        moved = (drawn[kind].float() - drawn[_BEFORE].float()).flatten(2).norm(dim=2)
        distances.append((moved / drawn[_BEFORE].float().flatten(2).norm(dim=2)).numpy())
        print(f"{kind}: {changed[-1].sum()} of {len(after)} images changed")
    show(np.concatenate(distances), np.concatenate(changed), opened.settings.generation.steps)


def edits_of(opened: BundledMitigation) -> Edited:
    """Resume a run without drawing, and note under which edits it has images of captions."""
    edits: dict[str, Edit | None] = {}
    noted: list[str] = []
    ordinary, work = Stages.ordinary, Stages.work

    def note(
        self: Stages,
        title: str,
        kind: str,
        edit: Edit | None,
        captions: Sequence[str],
        images: int,
        *,
        arm: str = SAME,
    ) -> Any:
        found = ordinary(self, title, kind, edit, captions, images, arm=arm)
        if arm == SAME:
            edits[kind] = edit
            noted[:] = captions
        return found

    def only_read(self: Stages, title: str, task: Any, items: Sequence[tuple[int, Any]]) -> None:
        done = self.run.done(task.kind, 1 + max((index for index, _ in items), default=-1))
        if not all(done[index] for index, _ in items):
            raise _UnfinishedError
        work(self, title, task, items)

    with (
        patch.object(Stages, "ordinary", note),
        patch.object(Stages, "work", only_read),
        suppress(_UnfinishedError),
    ):
        mitigate_all(opened.run, opened.model, opened.inputs)
    return Edited(edits, tuple(noted))


def first_steps(
    opened: BundledMitigation, edited: Edited, images: int, steps: int, path: Path
) -> Drawn:
    """Draw the first steps of each image, in the batches of the run; those in the file stay."""
    drawn: Drawn = torch.load(path) if path.exists() else {}
    size = opened.settings.generation.batch
    items = [item for _, item in ordinary_items(edited.captions, images, SAME)]
    settings = replace(opened.settings.generation, images=1)
    for start in range(min(map(len, drawn.values()), default=0), images, size):
        _, captions, seeds = zip(*items[start : start + size], strict=True)
        for kind, edit in edited.edits.items():
            with stopped_after(steps) as kept:
                generate_each(
                    opened.model, captions, [edit] * len(captions), settings=settings, seeds=seeds
                )
            rows = torch.stack(kept, 1)
            drawn[kind] = torch.cat([drawn[kind], rows]) if kind in drawn else rows
        torch.save(drawn, path)
    return drawn


@contextmanager
def stopped_after(steps: int) -> Iterator[list[Tensor]]:
    """Fill a list with the latents after each step, and let a pipeline end after some steps."""
    kept: list[Tensor] = []
    run_from_noise = _generate._run_from_noise

    def stopping(*arguments: Any, **options: Any) -> Any:
        def after_step(pipe: Any, step: int, _time: object, values: Any) -> Any:
            kept.append(values["latents"].half().cpu())
            pipe._interrupt = step + 1 >= steps
            return values

        return run_from_noise(*arguments, **{**options, "callback_on_step_end": after_step})

    with patch.object(_generate, "_run_from_noise", stopping):
        yield kept


def show(distances: NDArray[Any], changed: NDArray[np.bool_], steps: int) -> None:
    """Print a row for each step."""
    print(f"\n{len(changed)} images, of which {changed.sum()} changed\n")
    print("| step | " + " | ".join(f"{rate:.2%} wrong" for rate in WRONG) + " | of another half |")
    print("|---|" + "---|" * len(WRONG) + "---|")
    draw = np.random.default_rng(0)
    halves = [draw.permutation(len(changed)) < len(changed) // 2 for _ in range(_HALVES)]
    for place, moved in enumerate(distances.T):
        rising, saved = np.sort(moved[changed]), 1 - (place + 1) / steps
        cells = []
        for rate in WRONG:
            level = rising[min(int(rate * len(changed)), len(rising) - 1)]
            cells.append(f"{2 - saved * (moved < level).mean():.2f}")
        missed = [
            (moved[~half & changed] < moved[half & changed].min(initial=np.inf)).sum()
            / (~half).sum()
            for half in halves
        ]
        print(f"| {place + 1} of {steps} | {' | '.join(cells)} | {np.mean(missed):.2%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--latents", type=Path, default=Path("work/early-verdicts.pt"))
    given = parser.parse_args()
    main(given.run, given.images, given.steps, given.latents)
