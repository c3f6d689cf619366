"""What greedy refinement costs at least while its sets are the published ones, and what guesses do.

python benchmarks/greedy_limit.py [--folder work/greedy-limit] [--prompts N]

For each natural plant with at least 16 candidates, greedy refinement runs all seeds in every test,
and the similarities of all pairs are kept in the folder, so that the same command goes on where it
stopped. From them follows what a localization costs if each test ends as soon as its answer is
certain, whatever the other seeds do, with seeds in their order or in the best one; and what it
costs if a test is answered by a guess: from the mean over the pairs of a few seeds, corrected by
how much the last whole test differed from them, unless that is within a margin of the limit. A
prompt counts as right if all its tests are. Selection is exact in all rows.
"""

from __future__ import annotations

import argparse
import json
import statistics as stats
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import unmemorize as um
from costs import FEW
from unmemorize.detection import pairwise_similarity
from unmemorize.localization import Limit, _early_exit, _greedy
from unmemorize.localization._early_exit import Answer, PairTests, fewest_telling_seeds

Test = dict[str, Any]
Prompt = dict[str, Any]
_FEWEST = (2, 3, 5)
_MARGINS = (0.05, 0.02, 0.01, 0.0)


def main(folder: Path, count: int) -> None:
    prompts = list(traced(folder, count))
    package = [cost(one, seeds_in_order) for one in prompts]
    tests = sum(test["stage"] == "refinement" for one in prompts for test in one["tests"])
    print(f"{len(prompts)} prompts with at least {FEW} candidates; medians over prompts\n")
    print("| tests | weighted samples, of the package's | prompts right | tests wrong |")
    print("|---|---|---|---|")
    for name, seeds in {
        "all seeds in each": every_seed,
        "end when the answer is certain (the package)": seeds_in_order,
        "the same, seeds in the best order": seeds_in_best_order,
    }.items():
        print(row(name, [cost(one, seeds) for one in prompts], package, [0] * len(prompts), tests))
    for few in _FEWEST:
        for margin in _MARGINS:
            guesses = [guessed(one, few, margin) for one in prompts]
            name = f"guessed from {few} seeds, margin {margin:g}"
            spent, wrong = [one for one, _ in guesses], [errors for _, errors in guesses]
            print(row(name, spent, package, wrong, tests))


def row(name: str, spent: list[float], package: list[float], wrong: list[int], tests: int) -> str:
    shares = [one / other for one, other in zip(spent, package, strict=True)]
    right = sum(not one for one in wrong)
    rate = sum(wrong) / tests
    return f"| {name} | {stats.median(shares):.2f} | {right} of {len(wrong)} | {rate:.2%} |"


def traced(folder: Path, count: int) -> Iterator[Prompt]:
    """Yield the tests of each prompt, made as far as they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    natural = [entry for entry in um.testbed.planted() if entry.mode == "natural"][:count]
    model = um.Model.load("testbed", dtype="float32")
    for place, entry in enumerate(natural):
        path = folder / f"{place:02}.json"
        if not path.exists():
            path.write_text(json.dumps(trace(model, entry.prompt)), encoding="utf-8")
        prompt: Prompt = json.loads(path.read_text(encoding="utf-8"))
        if prompt["candidates"] >= FEW:
            yield prompt


def trace(model: um.Model, prompt: um.Prompt) -> Prompt:
    """Localize a prompt by tests that run all seeds, and note them."""
    tests: list[Test] = []
    stage = "selection"

    def answer(self: PairTests, off: um.Neurons, limit: Limit) -> Answer:
        before = self._passes.meter.weighted
        blocked = self._passes.run(off, self._seeds)
        share = (self._passes.meter.weighted - before) / len(self._seeds)
        pairs = pairwise_similarity(blocked.differences, "fixed")
        found = _early_exit._of_all(blocked, self._scoring, limit)
        kept = {"stage": stage, "share": share, "limit": limit.value, "below": found.below}
        tests.append({**kept, "pairs": pairs.tolist()})
        return found

    def refine(*arguments: Any) -> Any:
        nonlocal stage
        stage = "refinement"
        return _greedy.refine_greedily(*arguments)

    threshold = um.Threshold.load(um.testbed.threshold_path("seed similarity"))
    settings = um.LocalizationSettings(
        noise=threshold.settings,
        seed_threshold=threshold.localize.tau,
        criterion="seeds",
        refinement="greedy",
    )
    with (
        patch.object(PairTests, "answer", answer),
        patch.dict("unmemorize.localization._localize.REFINEMENTS", greedy=refine),
    ):
        found = um.localize(
            model,
            prompt,
            statistics=um.Statistics.load(um.testbed.statistics_path()),
            threshold=threshold,
            settings=settings,
        )
    print(f"{prompt.text}: {len(tests)} tests", flush=True)
    return {"candidates": len(found.initial), "seeds": len(found.seeds), "tests": tests}


def cost(prompt: Prompt, seeds: Callable[[Test, int], int]) -> float:
    """Return the weighted samples of a localization, its pass with nothing off included."""
    count = prompt["seeds"]
    return float(count + sum(seeds(test, count) * test["share"] for test in prompt["tests"]))


def every_seed(_test: Test, count: int) -> int:
    return count


def seeds_in_order(test: Test, count: int) -> int:
    """Return how many seeds the package runs, see `PairTests`."""
    done = fewest_telling_seeds(count, test["limit"])
    while done < count:
        alike = mean(test, range(done))
        if alike * share_of_pairs(done, count) >= test["limit"]:
            break
        needed = test["limit"] / alike if alike > test["limit"] else 1.0
        done = max(done + 1, fewest_telling_seeds(count, needed))
    return done


def seeds_in_best_order(test: Test, count: int) -> int:
    """Return how many seeds are enough if those that are least alike are left out first."""
    kept = list(range(count))
    while not test["below"] and len(kept) > 2:
        pairs = similarities(test)[np.ix_(kept, kept)]
        fewer = [each for each in kept if each != kept[int(pairs.sum(1).argmin())]]
        if mean(test, fewer) * share_of_pairs(len(fewer), count) < test["limit"]:
            break
        kept = fewer
    return len(kept)


def guessed(prompt: Prompt, few: int, margin: float) -> tuple[float, int]:
    """Return what a localization costs with guesses, and how many of them are wrong.

    A guess that is wrong would lead to other tests; here the right ones follow all the same.
    """
    count = prompt["seeds"]
    few = min(few, count)
    spent, excess, wrong = float(count), 0.0, 0
    for test in prompt["tests"]:
        certain = seeds_in_order(test, count)
        guess = mean(test, range(few)) + excess
        if test["stage"] == "refinement" and abs(guess - test["limit"]) > margin:
            spent += few * test["share"]
            wrong += (guess < test["limit"]) != test["below"]
            continue
        spent += max(few, certain) * test["share"]
        if certain == count:
            excess = mean(test, range(count)) - mean(test, range(few))
    return spent, wrong


def mean(test: Test, seeds: Sequence[int]) -> float:
    pairs = similarities(test)
    return float(np.mean([pairs[one, other] for one, other in combinations(seeds, 2)]))


def similarities(test: Test) -> NDArray[np.float64]:
    return np.array(test["pairs"])


def share_of_pairs(seeds: int, count: int) -> float:
    return seeds * (seeds - 1) / (count * (count - 1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, default=Path("work/greedy-limit"))
    parser.add_argument("--prompts", type=int, default=10_000, help="how many plants at the most")
    given = parser.parse_args()
    main(given.folder, given.prompts)
