"""Images of ordinary captions before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from colours import Colours
from unmemorize import GenerationSettings, Model, NeuronEdit, Neurons, Prompt, RunError, open_run
from unmemorize.engines import Execution
from unmemorize.generation import generate_each
from unmemorize.metrics import centred_correlation, quality, read_image
from unmemorize.mitigation import MitigationRun, MitigationSettings, Stages, unannounced
from unmemorize.mitigation._ordinary import (
    ordinary_change,
    ordinary_items,
    read_ordinary,
)

GENERATION = GenerationSettings(steps=2, guidance=3.0, batch=4)
CAPTIONS = ("a dog", "a house", "a tree")


class Clip(Colours):
    """Cosines that tell which caption was compared."""

    def alignment(self, features: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        return features[:, 0] / 255 + torch.tensor([len(text) for text in texts])


@pytest.fixture
def stages(pipe: DiffusionPipeline, tmp_path: Path) -> Stages:
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    model, clip = Model(pipe), Clip()
    settings = MitigationSettings(
        ordinary_images=19, false_copies=0.05, generation=GENERATION, search_images=3
    )
    made_of = MitigationRun(
        settings=settings,
        tau=0.5,
        threshold_prompts="",
        statistics_prompts="",
        captions="",
        descriptor="",
        clip="",
    )
    run = open_run(tmp_path / "run", model, [Prompt("a cat")], made_of)
    descriptor: Any = Colours()
    return Stages(run, model, settings, descriptor, clip, Execution(), unannounced)  # type: ignore[arg-type]


def edit_of(model: Model) -> NeuronEdit:
    return NeuronEdit(Neurons({path: range(4) for path in model.widths}), -2.0)


def test_captions_take_turns_and_each_image_has_noise_of_its_own() -> None:
    items = [item for _, item in ordinary_items(CAPTIONS, 7, "same")]
    assert [caption for _, caption, _ in items] == [*CAPTIONS, *CAPTIONS, CAPTIONS[0]]
    assert len({seed for *_, seed in items}) == 7
    assert ordinary_items(CAPTIONS, 4, "same") == ordinary_items(CAPTIONS, 7, "same")[:4]
    others = {seed for _, (*_, seed) in ordinary_items(CAPTIONS, 7, "other")}
    assert not others & {seed for *_, seed in items}


def test_images_are_those_of_their_seeds_under_the_edit(stages: Stages) -> None:
    edit = edit_of(stages.model)
    images = stages.ordinary("title", "ordinary-same", edit, CAPTIONS, 5)
    expected = []
    for _, (_, caption, seed) in ordinary_items(CAPTIONS, 5, "same"):
        settings = GenerationSettings(images=1, seed=seed, steps=2, guidance=3.0)
        expected += generate_each(stages.model, [caption], [edit], settings=settings)[0]
    assert images.captions == (*CAPTIONS, *CAPTIONS[:2])
    assert np.allclose(images.embeddings, stages.descriptor(expected), atol=1e-5)
    assert images.alignment[0] == pytest.approx(
        float(stages.descriptor.features(expected)[0, 0]) / 255 + len(CAPTIONS[0]),  # type: ignore[attr-defined]
        abs=1e-3,
    )


def test_what_an_edit_changes(stages: Stages) -> None:
    before = stages.ordinary("before", "ordinary-same", None, CAPTIONS, 6)
    other = stages.ordinary("other", "ordinary-other", None, CAPTIONS, 6, arm="other")
    after = stages.ordinary("after", "ordinary-edit", edit_of(stages.model), CAPTIONS, 4)
    change = ordinary_change(stages.run, before, after, other)
    similarity = [float(before.embeddings[i] @ after.embeddings[i]) for i in range(4)]
    assert change.images == 4
    assert change.changed == sum(value < 0.5 for value in similarity)
    assert change.worst == pytest.approx(min(similarity))
    worst = int(np.argmin(similarity))
    assert change.shown[0] == (before.captions[worst], before.files[worst], after.files[worst])
    assert change.clip_fid == pytest.approx(quality(after.features, other.features).fid)
    assert change.clip_fid_before == pytest.approx(quality(before.features[:4], other.features).fid)
    assert change.alignment_before == pytest.approx(np.median(before.alignment[:4]))
    assert change.alignment_after == pytest.approx(np.median(after.alignment))
    pairs = [
        centred_correlation(
            read_image(stages.run.folder / before.files[i]),
            read_image(stages.run.folder / after.files[i]),
        )
        for i in range(4)
    ]
    assert change.correlation == pytest.approx(np.median(pairs))


def test_a_sample_and_all_images_share_their_records(stages: Stages) -> None:
    """The first images stay the same, whether more of them follow or not."""
    few = stages.ordinary("few", "ordinary-edit", None, CAPTIONS, 3)
    stages.ordinary("all", "ordinary-edit", None, CAPTIONS, 6)
    again = stages.ordinary("few", "ordinary-edit", None, CAPTIONS, 3)
    assert again.files == few.files
    assert np.array_equal(again.embeddings, few.embeddings)
    assert len(stages.run.records("ordinary-edit")) == 6


def test_nothing_changes_without_an_edit(stages: Stages) -> None:
    before = stages.ordinary("before", "ordinary-same", None, CAPTIONS, 4)
    again = stages.ordinary("after", "ordinary-again", None, CAPTIONS, 4)
    change = ordinary_change(stages.run, before, again)
    assert change.changed == 0
    assert change.similarity == pytest.approx(1)
    assert change.clip_fid is None


def test_memorized_captions_are_no_side_effect(stages: Stages) -> None:
    """Neither what they show before nor after counts, also not in distances."""
    before = stages.ordinary("before", "ordinary-same", None, CAPTIONS, 7)
    other = stages.ordinary("other", "ordinary-other", None, CAPTIONS, 6, arm="other")
    after = stages.ordinary("after", "ordinary-edit", edit_of(stages.model), CAPTIONS, 5)
    change = ordinary_change(stages.run, before, after, other, memorized={"a house", "a cat"})
    rows = [0, 2, 3]
    similarity = [float(before.embeddings[i] @ after.embeddings[i]) for i in rows]
    assert change.images == 3
    assert change.worst == pytest.approx(min(similarity))
    assert {caption for caption, *_ in change.shown} == {"a dog", "a tree"}
    assert {file for *_, file in change.shown} == {after.files[row] for row in rows}
    expected = quality(after.features[rows], other.features[[0, 2, 3, 5]])
    assert change.clip_fid == pytest.approx(expected.fid)
    assert change.alignment_before == pytest.approx(np.median([before.alignment[i] for i in rows]))
    assert change.alignment_after == pytest.approx(np.median([after.alignment[i] for i in rows]))
    everything = ordinary_change(stages.run, before, after, other, memorized=set(CAPTIONS))
    assert everything == ordinary_change(stages.run, before, after, other)


def test_one_image_has_no_distance_to_others(stages: Stages) -> None:
    """A sample of few ordinary images may be one image, which ended a search with an error."""
    before = stages.ordinary("before", "ordinary-same", None, CAPTIONS, 4)
    other = stages.ordinary("other", "ordinary-other", None, CAPTIONS, 4, arm="other")
    after = stages.ordinary("after", "ordinary-edit", edit_of(stages.model), CAPTIONS, 1)
    change = ordinary_change(stages.run, before, after, other)
    assert (change.images, change.clip_fid, change.kid) == (1, None, None)
    assert change.alignment_after is not None


def test_a_damaged_record_is_named(stages: Stages) -> None:
    stages.ordinary("before", "ordinary-same", None, CAPTIONS, 2)
    stages.run.append("broken", 0, {"caption": 3})
    with pytest.raises(RunError, match="damaged record of an ordinary image"):
        read_ordinary(stages.run, "broken", 2)
    with pytest.raises(RunError, match="no ordinary images"):
        read_ordinary(stages.run, "missing", 2)
