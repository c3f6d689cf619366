"""Attacks that go on while a model is trained."""

from __future__ import annotations

import torch

from harden_chains import Chains, Origins

LIFE = 5


def origins() -> Origins:
    generator = torch.Generator().manual_seed(1)
    own, others = (torch.randn(count, 3, 4, generator=generator) for count in (2, 6))
    return Origins(own, others)


def chains(**options: object) -> Chains:
    generator = torch.Generator().manual_seed(2)
    return Chains(origins(), **{"life": LIFE, "generator": generator, **options})  # type: ignore[arg-type]


def slopes(value: torch.Tensor, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    return value * 1e-3 + torch.randn(value.shape, generator=generator) * 1e-4


def test_chains_begin_where_their_starts_say() -> None:
    known, some = origins(), chains()
    assert some.places == [0, 0, 0, 1, 1, 1]
    assert torch.equal(some.value[0], known.own[0])
    assert torch.equal(some.value[3], known.own[1])
    assert not torch.equal(some.value[1], some.value[4])  # noise
    for other in (some.value[2], some.value[5]):
        assert any(torch.equal(other, caption) for caption in known.others)


def test_each_chain_moves_as_adam_alone_and_begins_anew_when_it_is_old() -> None:
    some, generator = chains(rate=0.1), torch.Generator().manual_seed(3)
    alone = [some.value[chain].clone() for chain in range(6)]
    optimizers = [torch.optim.Adam([value], lr=0.1) for value in alone]
    renewed = [0] * 6
    for step in range(3 * LIFE):
        gradient = slopes(some.value, step)
        for value, optimizer, own in zip(alone, optimizers, gradient, strict=True):
            value.grad = own.clone()
            optimizer.step()
        some.advance(gradient, generator)
        for chain in range(6):
            if some.ages[chain] == 0:
                renewed[chain] += 1
                alone[chain] = some.value[chain].clone()
                optimizers[chain] = torch.optim.Adam([alone[chain]], lr=0.1)
            torch.testing.assert_close(some.value[chain], alone[chain], rtol=1e-5, atol=1e-5)
    assert all(count in (2, 3) for count in renewed)
    assert some.ages.max() < LIFE


def test_ages_are_spread_from_the_beginning() -> None:
    some, generator = chains(life=50), torch.Generator().manual_seed(3)
    renewed = []
    for step in range(50):
        some.advance(slopes(some.value, step), generator)
        renewed += [step for age in some.ages.tolist() if age == 0]
    assert len(renewed) == 6
    assert len(set(renewed)) > 3


def test_a_chain_from_a_caption_begins_anew_at_this_caption() -> None:
    some, generator = chains(starts=("prompt",), life=1), torch.Generator().manual_seed(3)
    found = some.advance(slopes(some.value, 0), generator)
    assert torch.equal(some.value, origins().own)
    assert [place for place, _ in found] == [0, 1]
    for place, value in found:
        assert value.shape == (3, 4)
        assert not torch.equal(value, origins().own[place])
