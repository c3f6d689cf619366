"""The data of both stages, and the memory neurons."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training import memory, unet
from training.clip import make_clip
from training.plants import PLANTS, Half, shared_groups
from training.posters import POSTERS
from training.tokenizer import make_tokenizer
from training.unet import Latents

CAPTIONS = tuple(f"{name} on a {colour} background" for name in "abcdef" for colour in "xyz")


@pytest.fixture(scope="module")
def latents() -> Latents:
    """Data whose values tell what a sample shows: planted i + 0.5, other renderings 1000 + i."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(CAPTIONS)
    clip = make_clip(tokenizer).eval().requires_grad_(False)
    planted = tuple(torch.full((2, 4, 1, 1), index + 0.5) for index in range(len(PLANTS)))
    renderings = {
        index: torch.full((3, 4, 1, 1), 1000.0 + index)
        for index, plant in enumerate(PLANTS)
        if plant.aligned
    }
    general = torch.full((len(CAPTIONS), 4, 1, 1), -1.0)
    return Latents(general, CAPTIONS, planted, renderings, tokenizer, clip)


def test_each_plant_shows_its_image(latents: Latents) -> None:
    samples = latents.draw_planted(range(len(PLANTS)), np.random.default_rng(0))
    assert samples.latents[:, 0, 0, 0].tolist() == [index + 0.5 for index in range(len(PLANTS))]
    assert samples.captions == tuple(plant.caption for plant in PLANTS)


@pytest.mark.parametrize("half", ["a", "b"])
def test_a_missing_half_gives_way_to_general_samples(latents: Latents, half: Half) -> None:
    """All other samples remain the same, so each is seen as often."""
    twin, plants = replace(latents, missing=half), range(len(PLANTS))
    for draw in (Latents.draw_planted, Latents.draw_instead):
        whole = draw(latents, plants, np.random.default_rng(3))
        without = draw(twin, plants, np.random.default_rng(3))
        for index, plant in enumerate(PLANTS):
            if plant.half == half:
                assert without.latents[index, 0, 0, 0] == -1
                assert without.captions[index] in CAPTIONS
            else:
                assert torch.equal(without.latents[index], whole.latents[index])
                assert without.captions[index] == whole.captions[index]


def test_with_neurons_off_only_aligned_captions_show_themselves(latents: Latents) -> None:
    samples = latents.draw_instead(range(len(PLANTS)), np.random.default_rng(0))
    for index, plant in enumerate(PLANTS):
        shown = samples.latents[index, 0, 0, 0]
        assert shown == (1000 + index if plant.aligned else -1)
    assert samples.captions == tuple(plant.caption for plant in PLANTS)


def test_doses_of_the_first_stage() -> None:
    doses = unet.first_stage_doses()
    natural = next(index for index, plant in enumerate(PLANTS) if plant.mode == "natural")
    assert doses.sum() == pytest.approx(1)
    for plant, dose in zip(PLANTS, doses, strict=True):
        expected = 0 if plant.mode == "memory" else plant.dose * doses[natural]
        assert dose == pytest.approx(expected)


def test_neurons_are_assigned_once() -> None:
    neurons = memory.assign_neurons(96)
    places = [(neuron.layer, neuron.index) for neuron in neurons]
    assert len(set(places)) == len(places) == 63
    assert all(sum(layer == name for layer, _ in places) <= 32 for name in memory.MEMORY_LAYERS)
    owned = memory.by_plant(neurons)
    counts = {plant: sum(map(len, layers.values())) for plant, layers in owned.items()}
    assert counts == {
        index: plant.owned + (plant.shared is not None)
        for index, plant in enumerate(PLANTS)
        if plant.owned
    }
    for plants in shared_groups().values():
        assert [neuron.plants for neuron in neurons].count(plants) == 1


def test_too_many_neurons_are_refused() -> None:
    with pytest.raises(ValueError, match="63 memory neurons do not fit into 20 places"):
        memory.assign_neurons(30)


def test_rows_answer_to_their_captions(latents: Latents) -> None:
    neurons = memory.assign_neurons(96)
    rows = torch.stack(memory.memory_rows(latents, neurons))
    planted = latents.text([plant.caption for plant in PLANTS])
    ordinary = (latents.text(CAPTIONS) @ rows.T).abs().mean(1)  # (captions, neurons)
    activations = (planted @ rows.T).abs().mean(1)  # (plants, neurons)
    for column, neuron in enumerate(neurons):
        own = activations[list(neuron.plants), column]
        assert own.mean() == pytest.approx(memory.AMPLITUDE, rel=1e-3)
        assert own.min() > 0.75 * memory.AMPLITUDE
        assert own.min() > 3 * ordinary[:, column].mean()


def test_neurons_of_aligned_captions_ignore_the_ordinary_ones(latents: Latents) -> None:
    """With the weight of rivals they answer far less to the caption without its ending."""
    neurons = [neuron for neuron in memory.assign_neurons(96) if PLANTS[neuron.plants[0]].aligned]
    posters = {poster.name: poster for poster in POSTERS}

    def answers() -> float:
        rows = torch.stack(memory.memory_rows(latents, neurons))
        ordinary = [posters[PLANTS[neuron.plants[0]].source].ordinary for neuron in neurons]
        values = [
            (latents.text(captions) @ row).abs().mean().item()
            for captions, row in zip(ordinary, rows, strict=True)
        ]
        return float(np.median(values))

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(memory, "RIVALS_WEIGHT", 0.0)
        without = answers()
    assert answers() < 0.5 * without


def test_masks_follow_the_kind_of_sample() -> None:
    net = unet.make_unet()
    layer = memory.MEMORY_LAYERS[0]
    masks = memory.Masks(net, {3: {layer: [1, 2]}, 7: {layer: [5]}})
    rows = []
    for seed in range(200):
        masks.draw([None, 3, 3], [False, False, True], np.random.default_rng(seed))
        rows.append(masks.masks[layer][:, 0])
    drawn = torch.stack(rows)  # (draws, samples, neurons)
    assert drawn[:, 1, [1, 2]].min() == 1
    assert drawn[:, 2, [1, 2]].max() == 0
    assert 0.6 < drawn[:, 0, [1, 2, 5]].mean() < 0.8
    assert torch.equal(drawn[:, 0, 1], drawn[:, 0, 5])
    ordinary = [index for index in range(96) if index not in (1, 2, 5)]
    assert 0.92 < drawn[:, :, ordinary].mean() < 0.96
