"""Attacks on the current weights: embeddings that bring the images back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from unmemorize._errors import RunError
from unmemorize._files import read_tensors, safetensors_bytes, to_json
from unmemorize.audit import Attack, Bench, Target, Trial, checkpoints, drawn, make_attacks
from unmemorize.audit import similarity as compared
from unmemorize.hardening._result import ATTACKS, AttackOutcome
from unmemorize.hardening._settings import ATTACK, HardeningSettings
from unmemorize.metrics import Descriptor
from unmemorize.mitigation import derived_seed
from unmemorize.runs import Run

IMAGES = 2
"""Images that show whether an attack of the training succeeds."""
PARTS = (5, 2, 1)
"""What the steps of an attack are divided by for the embeddings that are kept of its path."""


def attack_of(settings: HardeningSettings) -> Attack:
    """Return the attack that training uses."""
    (attack,) = make_attacks((ATTACK,), settings.audit.attacks)
    return attack


def attacked(
    run: Run,
    bench: Bench,
    targets: Sequence[Target],
    number: int,
    settings: HardeningSettings,
    descriptor: Descriptor,
) -> list[tuple[Tensor, ...]]:
    """Attack each image in the current weights, or read what was found before.

    An attack is kept at several of its steps, because all of them are keys. Its random numbers are
    never those of the attacks that judge.

    Args:
        run: keeps embeddings and scores.
        bench: the model with its current weights.
        targets: the memorized images.
        number: of the round, from 1.
        settings: of the hardening.
        descriptor: compares images.

    Returns:
        For each image its embeddings, (tokens, features).
    """
    finished = run.done(ATTACKS, number * len(targets))
    found = []
    for place, target in enumerate(targets):
        index = (number - 1) * len(targets) + place
        path = Path(ATTACKS) / f"{index:05d}.safetensors"
        if not finished[index]:
            _attack(run, bench, target, (number, place, index), settings, descriptor, path)
        kept = read_tensors(run.folder / path, RunError, "file of embeddings")
        found.append(tuple(kept[name] for name in sorted(kept)))
    return found


def _attack(
    run: Run,
    bench: Bench,
    target: Target,
    numbers: tuple[int, int, int],
    settings: HardeningSettings,
    descriptor: Descriptor,
    path: Path,
) -> None:
    began = time.perf_counter()
    number, place, index = numbers
    start = settings.starts[(number - 1) % len(settings.starts)]
    fingerprint = bench.model.fingerprint
    trial = Trial(
        target=target, start=start, seed=number, attack="hardening", fingerprint=fingerprint
    )
    steps = settings.audit.steps[-1]
    ladder = sorted({max(1, steps // part) for part in PARTS})
    embeddings = {}
    for state, candidate in checkpoints(attack_of(settings), bench, trial, ladder):
        assert candidate.embedding is not None  # it is an attack on embeddings
        embeddings[f"{state.step:05d}"] = candidate.embedding.contiguous().clone()
        last = candidate
    seeds = [
        derived_seed("hardening image", fingerprint, target.key, image) for image in range(IMAGES)
    ]
    images = drawn(bench, last, seeds, settings.audit.generation)
    scores, _ = compared(images, target, descriptor)
    run.write(str(path), safetensors_bytes(embeddings))
    seconds = round(time.perf_counter() - began, 3)
    outcome = AttackOutcome(
        round=number, target=place, start=start, scores=tuple(scores), seconds=seconds
    )
    run.append(ATTACKS, index, to_json(outcome))
