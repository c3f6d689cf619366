"""Which timestep, and how many seeds, late noise magnitude should take on the bundled model.

python benchmarks/late_timesteps.py [--captions N] [--records FOLDER]

The norm of what the text changes on untouched noise is measured at the timesteps of ten steps, for
four seeds, and kept in FOLDER/late-timesteps.json; the same command resumes. Candidates are each
timestep and the sum of each two, standardised over calibration captions. Each half of the plants
(by even and odd index) with the calibration captions chooses among candidates of at most four
samples, those without text included: the highest AUROC, then most seeds. Each choice is then
measured on the other half against the test captions.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import unmemorize as um
from unmemorize._files import atomic_write
from unmemorize.cli.compare import planted_suspects
from unmemorize.detection import Moment, Trace, conformal_quantile
from unmemorize.detection._noise_magnitude import magnitudes
from unmemorize.metrics import auroc

STEPS = (0, 5, 10, 15, 20, 25, 30, 35, 40, 45)
SEEDS = 4
MOST_SAMPLES = 4
RATE = 0.01
BATCH = 4
"""Prompts that are scored together."""
SETS = ("planted", "calibration", "test")
Array = NDArray[np.float64]


def measure(model: um.Model, captions: int, path: Path) -> dict[str, Array]:
    """Return the norms of each set of prompts, (prompts, seeds, steps)."""
    texts = {
        "planted": [suspect.text for suspect in planted_suspects()],
        "calibration": um.testbed.captions("calibration")[:captions],
        "test": um.testbed.captions("test")[:captions],
    }
    norms: dict[str, list[list[list[float]]]] = {part: [] for part in SETS}
    if path.exists():
        norms = json.loads(path.read_text(encoding="utf-8"))
    for part in SETS:
        for start in range(len(norms[part]), len(texts[part]), BATCH):
            trace = Trace(model, texts[part][start : start + BATCH], batch=BATCH * SEEDS)
            at_steps = [magnitudes(trace, SEEDS, Moment(step)) for step in STEPS]
            rows = np.stack([norm.cpu().double().numpy() for norm in at_steps], 2)
            norms[part] += rows.round(4).tolist()
            atomic_write(path, json.dumps(norms) + "\n", um.RunError)
    return {part: np.array(norms[part][: len(texts[part])]) for part in SETS}


def score(norms: Array, ordinary: Array, seeds: int, steps: tuple[int, ...]) -> Array:
    """Return the standardised sum over steps of the mean norm over seeds, (prompts,)."""
    columns = [STEPS.index(step) for step in steps]
    means, reference = (values[:, :seeds, columns].mean(1) for values in (norms, ordinary))
    total: Array = ((means - reference.mean(0)) / reference.std(0)).sum(1)
    return total


def area(memorized: Array, others: Array) -> float:
    """Return the AUROC without an interval, which takes long for so many candidates."""
    above = (memorized[:, None] > others) + 0.5 * (memorized[:, None] == others)
    return float(above.mean())


def main(captions: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = um.Model.load("testbed", dtype="float32")
    norms = measure(model, captions, folder / "late-timesteps.json")
    natural = np.array([suspect.group == "natural" for suspect in planted_suspects()])
    even = np.arange(len(natural)) % 2 == 0
    choices: dict[str, list[tuple[tuple[float, int], str]]] = {"even": [], "odd": []}
    results: dict[str, tuple[Array, Array, float]] = {}
    steps = [(step,) for step in STEPS] + list(itertools.combinations(STEPS, 2))
    for seeds, at in itertools.product((1, 2, 4), steps):
        planted, calibration, test = (
            score(norms[part], norms["calibration"], seeds, at) for part in SETS
        )
        name = f"step {' + '.join(map(str, at))}, {seeds} seeds"
        tau = conformal_quantile(calibration.tolist(), RATE)
        results[name] = planted, test, tau
        if 2 * seeds * len(at) <= MOST_SAMPLES:
            for half, chosen in (("even", even), ("odd", ~even)):
                choices[half].append(((area(planted[chosen], calibration), seeds), name))
        print(
            f"{name}: AUROC {area(planted, test):.4f}, natural {area(planted[natural], test):.4f}, "
            f"found {(planted > tau).sum()} of {len(planted)}, natural "
            f"{(planted[natural] > tau).sum()} of {natural.sum()}, false alarms "
            f"{(test > tau).sum()} of {len(test)}"
        )
    for half, others in (("even", ~even), ("odd", even)):
        best = max(value for value, _ in choices[half])
        for name in (name for value, name in choices[half] if value == best):
            planted, test, tau = results[name]
            rest, rest_natural = planted[others], planted[others & natural]
            print(
                f"{half} plants choose {name} ({best[0]:.4f}). On the others: AUROC "
                f"{auroc(rest.tolist(), test.tolist())}, found {(rest > tau).sum()} of "
                f"{len(rest)}, natural {(rest_natural > tau).sum()} of {len(rest_natural)}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=320, help="of each kind")
    parser.add_argument("--records", type=Path, default=Path("benchmarks/records"))
    arguments = parser.parse_args()
    main(arguments.captions, arguments.records)
