import pytest
import torch

from unmemorize.detection._cascade import Cascade


def matrices(*pairs: dict[tuple[int, int], float], seeds: int = 4) -> torch.Tensor:
    """Pairwise similarities, 0.1 but for those given."""
    given = torch.full((len(pairs), seeds, seeds), 0.1)
    for matrix, values in zip(given, pairs, strict=True):
        for (one, other), value in values.items():
            matrix[one, other] = matrix[other, one] = value
        matrix.fill_diagonal_(1.0)
    return given


def test_the_pair_that_decides_most_comes_first() -> None:
    memorized = [{(1, 3): 0.9, (0, 1): 0.2}, {(1, 3): 0.8}, {(0, 2): 0.7, (1, 3): 0.5}]
    cascade = Cascade.learn(matrices(*memorized, {}, {}, {}), 0.6, 0.6)
    assert cascade.order[:2] == (1, 3)  # two above tau, three below the third
    assert cascade.stops[0] == (2, 0.5)
    assert [seeds for seeds, _ in cascade.stops] == [2, 3]  # never after all of them
    assert sorted(cascade.order) == [0, 1, 2, 3]


def test_a_level_is_never_above_tau() -> None:
    cascade = Cascade.learn(matrices({(0, 1): 0.9}, {}), 0.6, 0.6)
    assert cascade.stops[0] == (2, 0.6)


def test_a_suspect_prompt_is_not_stopped_though_it_is_below_tau() -> None:
    given = matrices({(0, 1): 0.9}, {(0, 1): 0.4, (2, 3): 0.7}, {(0, 1): 0.1}, {})
    assert Cascade.learn(given, 0.8, 0.8).stops[0] == (2, 0.8)
    seeds, level = Cascade.learn(given, 0.8, 0.6).stops[0]
    assert seeds == 2
    assert level == pytest.approx(0.4)


def test_without_memorized_prompts_only_those_stop_that_are_less_alike_than_all() -> None:
    given = matrices({(0, 1): 0.3}, {(0, 1): 0.2})
    cascade = Cascade.learn(given, 0.6, 0.6)
    assert cascade.order[:2] == (0, 1)
    assert [seeds for seeds, _ in cascade.stops] == [2, 3]
    assert [level for _, level in cascade.stops] == pytest.approx([0.2, 0.2])


@pytest.mark.parametrize("seed", range(5))
def test_no_calibration_prompt_gets_another_verdict(seed: int) -> None:
    noise = torch.rand(60, 8, 8, generator=torch.Generator().manual_seed(seed))
    given = (noise + noise.mT) / 2
    tau = 0.9
    cascade = Cascade.learn(given, tau, tau)
    early = 0
    for matrix in given:
        off_diagonal = ~torch.eye(8, dtype=torch.bool)
        verdict = bool(matrix[off_diagonal].max() > tau)
        for seeds, level in cascade.stops:
            some = list(cascade.order[:seeds])
            score = matrix[some][:, some][~torch.eye(seeds, dtype=torch.bool)].max()
            if score > tau or score < level:
                assert bool(score > tau) == verdict
                early += 1
                break
    assert early
