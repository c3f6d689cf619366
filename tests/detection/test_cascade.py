from fractions import Fraction

import pytest
import torch
from torch import Tensor

from unmemorize.detection._cascade import LOSS, Cascade


def matrices(*pairs: dict[tuple[int, int], float], seeds: int = 4) -> Tensor:
    """Pairwise similarities, 0.1 but for those given."""
    given = torch.full((len(pairs), seeds, seeds), 0.1, dtype=torch.float64)
    for matrix, values in zip(given, pairs, strict=True):
        for (one, other), value in values.items():
            matrix[one, other] = matrix[other, one] = value
        matrix.fill_diagonal_(1.0)
    return given


def simulated(prompts: int, seed: int, seeds: int = 8) -> Tensor:
    """Similarities of prompts of which some look alike, and of seeds whose noises are alike."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(prompts, seeds, seeds, generator=generator, dtype=torch.float64)
    alike = 0.35 + 0.12 * torch.randn(prompts, 1, 1, generator=generator, dtype=torch.float64)
    hot = torch.zeros(seeds, seeds, dtype=torch.float64)
    hot[3, 6] = hot[6, 3] = 0.1
    return (alike + hot + 0.04 * (noise + noise.mT)).clamp(0, 1)


def verdict_of(cascade: Cascade, matrix: Tensor, tau: float) -> tuple[bool, int]:
    """Return the verdict and the seeds that it took, written as the docstring reads."""
    for seeds, level in (*cascade.stops, (len(matrix), 2.0)):
        some = list(cascade.order[:seeds])
        off_diagonal = ~torch.eye(seeds, dtype=torch.bool)
        score = float(matrix[some][:, some][off_diagonal].max())
        if score > tau or seeds == len(matrix):
            return score > tau, seeds
        if cascade.floor <= score < level:
            return False, seeds
    raise AssertionError


def test_the_first_prompts_choose_the_seeds_that_leave_least_to_others() -> None:
    first = {(1, 3): 0.5, (0, 1): 0.2}
    others = [{(0, 2): 0.5}, {(0, 2): 0.4}, {(0, 2): 0.3}, {(0, 2): 0.2}]
    cascade = Cascade.learn(matrices(first, *others), 0.6)
    assert cascade.order[:2] == (1, 3)
    assert sorted(cascade.order) == [0, 1, 2, 3]


def test_a_level_is_tau_minus_what_all_seeds_add_at_the_most() -> None:
    first = {(1, 3): 0.5, (0, 3): 0.3}  # the order is 1, 3, and then 0 or 2
    others = [{(0, 2): 0.45}, {(1, 3): 0.2, (0, 1): 0.35}, {(1, 3): 0.3}, {(1, 3): 0.15}]
    cascade = Cascade.learn(matrices(first, *others), 0.6)
    assert [seeds for seeds, _ in cascade.stops] == [2, 3]  # never after all of them
    assert cascade.stops[0][1] == pytest.approx(0.6 - (0.45 - 0.1))
    assert cascade.floor == pytest.approx(0.1)  # of the first pair


def test_the_first_stop_spends_half_of_the_loss_and_each_other_one_half_of_what_is_left() -> None:
    given = simulated(1250, 0)
    cascade = Cascade.learn(given, 0.6)
    others = given[250:]
    exceeded = []
    for seeds, level in cascade.stops:
        rows, columns = torch.triu_indices(seeds, seeds, 1)
        order = torch.tensor(cascade.order[:seeds])
        early = others[:, order[rows], order[columns]].amax(1)
        left = others.masked_fill(torch.eye(8, dtype=torch.bool), 0).amax((1, 2)) - early
        exceeded.append(int((left > 0.6 - level + 1e-12).sum()))
    allowed = [int(1001 * Fraction(LOSS) / 2**stop) for stop in (1, 2, 3, 4, 5, 6)]
    assert exceeded == [max(0, count - 1 if count else 0) for count in allowed]
    assert exceeded[:3] == [19, 9, 4]


@pytest.mark.parametrize("tau", [0.5, 0.65])
def test_few_seeds_lose_few_verdicts_and_add_none(tau: float) -> None:
    cascade = Cascade.learn(simulated(1000, 1), tau)
    lost = called = samples = 0
    new = simulated(1500, 2)
    for matrix in new:
        memorized = bool(matrix[~torch.eye(8, dtype=torch.bool)].max() > tau)
        early, seeds = verdict_of(cascade, matrix, tau)
        assert memorized or not early
        called += memorized
        lost += memorized and not early
        samples += seeds
    assert called > 50
    assert lost <= LOSS * called
    assert samples < 5 * len(new)


def test_a_prompt_less_alike_than_all_of_the_calibration_is_not_stopped() -> None:
    given = matrices({(1, 3): 0.5}, {(1, 3): 0.3}, {(1, 3): 0.2}, {(1, 3): 0.25})
    cascade = Cascade.learn(given, 0.6)
    (broken,) = matrices({(0, 2): 0.9, (1, 3): 0.15})  # two seeds that show something else
    assert cascade.floor == pytest.approx(0.2)
    assert verdict_of(cascade, broken, 0.6)[0]
    assert not cascade.clears(0.15, 0.5)
    assert cascade.clears(0.2, 0.5)
    assert not cascade.clears(0.5, 0.5)
