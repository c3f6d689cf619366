from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline
from PIL import Image, JpegImagePlugin

from conftest import PLANTED_PROMPT, make_pipeline, planted_pipeline
from unmemorize import GenerationSettings, Model, Neurons, Prompt, Run, RunError, generate
from unmemorize.generation import (
    ImageRecord,
    ImageSet,
    ImageSetRun,
    NeuronSet,
    generate_all,
    image_sets,
    read_images,
)
from unmemorize.localization import LocalizationRun, read_localizations
from unmemorize.runs import status_of

FEW = GenerationSettings(images=2, steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def model() -> Model:
    """The model of `run`, which no test changes."""
    return Model(planted_pipeline())


def images_of(name: str, **options: Any) -> ImageSet:
    return ImageSet(neurons=NeuronSet.parse(name), **options)


def files_of(images: Run) -> list[str]:
    return sorted(path.name for path in images.folder.glob("*.png"))


def test_every_set_has_its_folder_and_says_how_its_images_came_to_be(
    run: Run, model: Model
) -> None:
    names = ("refined", "original", "initial", "random-refined", "top-1")
    for name in names:
        images = generate_all(run, model, images_of(name), FEW).run
        assert images.folder == run.folder / "images" / name
        assert files_of(images) == ["00001_00.png", "00001_01.png"]
    sets = image_sets(run)
    assert list(sets) == ["original", "initial", "random-refined", "refined", "top-1"]
    records = {name: read_images(images)[1] for name, images in sets.items()}
    localization = read_localizations(run)[1]
    assert records["original"].neurons == Neurons()
    assert records["initial"].neurons == localization.initial
    assert records["refined"].neurons == localization.neurons
    assert not records["random-refined"].neurons & localization.neurons
    assert records["refined"].prompt == PLANTED_PROMPT
    assert records["refined"].files == ("00001_00.png", "00001_01.png")
    assert sets["refined"].settings(ImageSetRun) == ImageSetRun(
        neurons="refined",
        on="",
        format="png",
        shared=None,
        images=2,
        seed=2,
        steps=2,
        guidance=3.0,
        scale=0.0,
    )
    assert sets["top-1"].settings(ImageSetRun).shared == records["top-1"].neurons


def test_images_are_those_of_generate(run: Run, model: Model) -> None:
    settings = replace(FEW, seed=4, scale=0.5)
    images = generate_all(run, model, images_of("refined"), settings).run
    neurons = read_localizations(run)[1].neurons
    expected = generate(model, PLANTED_PROMPT, neurons, settings=settings)
    for seed in range(2):
        with Image.open(images.folder / f"00001_{seed:02d}.png") as image:
            assert image.tobytes() == expected[seed].tobytes()
    assert expected[0].tobytes() != expected[1].tobytes()


def test_a_set_is_resumed_and_refuses_other_settings(run: Run, model: Model) -> None:
    images = generate_all(run, model, images_of("refined"), FEW).run
    written = (images.folder / "00001_00.png").stat().st_mtime_ns
    tally = generate_all(run, model, images_of("refined"), FEW)
    assert (tally.done, tally.complete) == (1, True)
    assert (images.folder / "00001_00.png").stat().st_mtime_ns == written
    with pytest.raises(RunError, match=r"made with steps = 2, now it is 3.*delete .*refined"):
        generate_all(run, model, images_of("refined"), replace(FEW, steps=3))


def test_guarded_images_are_a_set_of_their_own(run: Run, model: Model) -> None:
    plain = generate_all(run, model, images_of("refined"), FEW).run
    assert plain.settings(ImageSetRun).guard is None
    guarded = generate_all(run, model, images_of("refined", guard={"tau": 1.0}), FEW).run
    assert guarded.folder.name == "refined-guarded"
    assert guarded.settings(ImageSetRun).guard == {"tau": 1.0}
    with pytest.raises(RunError, match=r"made with guard.tau = 1.0, now it is 2.0.*delete"):
        generate_all(run, model, images_of("refined", guard={"tau": 2.0}), FEW)


def test_scales_have_folders_of_their_own(run: Run, model: Model) -> None:
    negative = replace(FEW, scale=-0.5)
    images = generate_all(run, model, images_of("refined"), negative).run
    assert images.folder.name == "refined-scale--0.5"
    assert images.settings(ImageSetRun).scale == -0.5
    originals = generate_all(run, model, images_of("original"), FEW).run
    again = generate_all(run, model, images_of("original"), replace(FEW, scale=0.5)).run
    assert again.folder == originals.folder


@pytest.mark.parametrize(
    ("images", "scale", "name"),
    [
        (images_of("refined"), 0.0, "refined"),
        (images_of("refined", only="VM"), 0.0, "refined"),
        (images_of("top-3", only="TM"), 0.0, "top-3-tm"),
        (images_of("top-3", only="TM"), 0.25, "top-3-scale-0.25-tm"),
        (images_of("original", only="TM"), 0.25, "original"),
        (images_of("refined", only="VM", prompts=[Prompt("a")], label="x"), 0.0, "refined-vm-on-x"),
        (images_of("original", prompts=[Prompt("a")], label="x"), 0.5, "original-on-x"),
        (images_of("original", guard={"tau": 1.0}), 0.0, "original-guarded"),
        (
            images_of("top-3", only="TM", guard={"tau": 1.0}, prompts=[Prompt("a")], label="x"),
            0.25,
            "top-3-scale-0.25-tm-guarded-on-x",
        ),
    ],
)
def test_names_say_what_is_not_the_default(images: ImageSet, scale: float, name: str) -> None:
    assert images.name(scale) == name


def test_other_prompts_get_the_neurons_of_the_whole_run(run: Run, model: Model) -> None:
    others = [Prompt("a cat"), Prompt("a dog"), Prompt("a bird")]
    one = replace(FEW, images=1)
    animals = images_of("refined", prompts=others, label="animals")
    images = generate_all(run, model, animals, one).run
    assert images.folder.name == "refined-on-animals"
    records = read_images(images)
    assert [records[index].prompt for index in range(3)] == ["a cat", "a dog", "a bird"]
    neurons = read_localizations(run)[1].neurons
    assert neurons
    assert all(record.neurons == neurons for record in records.values())
    settings = images.settings(ImageSetRun)
    assert (settings.on, settings.shared) == ("animals", neurons)
    with pytest.raises(RunError, match="made with prompts"):
        generate_all(run, model, replace(animals, prompts=others[:2]), one)


@pytest.mark.parametrize("label", ["mine", "overall"])
def test_other_prompts_never_have_the_name_of_a_group(run: Run, model: Model, label: str) -> None:
    with pytest.raises(RunError, match="Rename their file"):
        generate_all(run, model, images_of("original", prompts=[Prompt("a")], label=label), FEW)


@pytest.mark.parametrize("label", ["", "a/b", "/a", "a/", ".", "caf\udce9"])
def test_the_name_of_other_prompts_can_be_that_of_a_folder(
    run: Run, model: Model, label: str
) -> None:
    """Else their images would count as those of the run, or would not be found."""
    with pytest.raises(RunError, match="not a name for other prompts"):
        generate_all(run, model, images_of("original", prompts=[Prompt("a")], label=label), FEW)
    assert not (run.folder / "images").exists()


def test_a_name_for_other_prompts_means_nothing_without_them(run: Run, model: Model) -> None:
    images = generate_all(run, model, images_of("original", label="x"), FEW).run
    assert (images.folder.name, images.settings(ImageSetRun).on) == ("original", "")


def test_only_one_kind_of_prompts(run: Run, model: Model) -> None:
    images = generate_all(run, model, images_of("refined", only="VM"), FEW).run
    assert list(read_images(images)) == [1]
    images = generate_all(run, model, images_of("top-3", only="TM"), FEW).run
    assert read_images(images) == {}


@pytest.fixture
def mixed_run(run: Run) -> Run:
    """A copy of `run` with two VM prompts and a TM prompt, all with the neurons of one."""
    rows = [json.loads(line) for line in (run.folder / "prompts.jsonl").read_text().splitlines()]
    kinds = ("VM", "TM", "VM")
    changed = [row | {"kind": kind} for row, kind in zip(rows, kinds, strict=True)]
    run.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in changed))
    memorized = run.records("localizations")[1]
    for index in (0, 2):
        run.append("localizations", index, memorized)
    return run


def test_kinds_of_prompts_one_after_the_other(mixed_run: Run, model: Model) -> None:
    one = replace(FEW, images=1)
    tally = generate_all(mixed_run, model, images_of("original", only="VM"), one)
    assert (tally.done, tally.total) == (2, 2)
    tally = generate_all(mixed_run, model, images_of("original", only="TM"), one)
    assert (tally.done, tally.total) == (1, 1)
    assert tally.run.manifest.items == Run.load(tally.run.folder).manifest.items == 3
    tally = generate_all(mixed_run, model, images_of("original"), one)
    assert (tally.done, tally.total, tally.complete) == (3, 3, True)
    tally = generate_all(mixed_run, model, images_of("original", only="VM"), one)
    assert (tally.done, tally.total, tally.complete) == (2, 2, True)


def test_a_set_that_began_with_one_kind_is_finished_with_all(mixed_run: Run, model: Model) -> None:
    one = replace(FEW, images=1)
    generate_all(mixed_run, model, images_of("original", only="TM"), one)
    images = generate_all(mixed_run, model, images_of("original"), one).run
    path = images.folder / "images.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))  # killed
    (status,) = (each for each in status_of(mixed_run) if each.name == "images/original")
    assert (status.done, status.pending) == (2, 1)


def test_false_alarms_do_not_count_among_the_most_frequent_neurons(run: Run, model: Model) -> None:
    """The same localized prompt, known to be memorized or not."""
    for name in ("top-1", "refined"):
        generate_all(run, model, images_of(name), FEW)
    assert read_images(image_sets(run)["top-1"])[1].neurons
    prompts = run.folder / "prompts.jsonl"
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    rows[1] |= {"kind": None, "group": "unmemorized"}
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = generate_all(run, model, images_of("top-2"), FEW).run
    assert read_images(images)[1].neurons == Neurons()
    assert read_images(image_sets(run)["refined"])[1].neurons


def test_jpeg_on_demand(run: Run, model: Model) -> None:
    images = generate_all(run, model, images_of("original", format="jpeg"), FEW).run
    assert read_images(images)[1].files == ("00001_00.jpg", "00001_01.jpg")
    exact = generate(model, PLANTED_PROMPT, settings=FEW)[1]
    with Image.open(images.folder / "00001_01.jpg") as image:
        assert (image.format, JpegImagePlugin.get_sampling(image)) == ("JPEG", 0)
        difference = np.asarray(image).astype(int) - np.asarray(exact)
    assert np.abs(difference).mean() < 6


def test_another_model_is_refused(run: Run) -> None:
    with pytest.raises(RunError, match="not the model given"):
        generate_all(run, Model(make_pipeline(seed=1)), images_of("original"), FEW)


def test_the_seed_of_localization_is_refused(run: Run, model: Model) -> None:
    seed = run.settings(LocalizationRun).localization.noise.seed
    assert seed != FEW.seed
    with pytest.raises(RunError, match=f"seed {seed} was already used for localization"):
        generate_all(run, model, images_of("original"), replace(FEW, seed=seed))


def test_damaged_records_are_refused(run: Run, model: Model) -> None:
    images = generate_all(run, model, images_of("original"), FEW).run
    assert read_images(images)[1] == ImageRecord(
        prompt=PLANTED_PROMPT, files=("00001_00.png", "00001_01.png"), neurons=Neurons()
    )
    images.append("images", 1, {"prompt": 3, "files": [], "neurons": {}})
    with pytest.raises(RunError, match=r"damaged record of prompt 1 .*generate the images again"):
        read_images(images)


def test_a_batch_goes_across_prompts(run: Run, planted: DiffusionPipeline) -> None:
    sizes: list[int] = []
    handle = planted.unet.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    others = [Prompt(f"number {letter}") for letter in "abc"]
    generate_all(
        run,
        Model(planted),
        images_of("original", prompts=others, label="numbers"),
        replace(FEW, images=1, batch=2),
    )
    handle.remove()
    # two prompts with both halves of the guidance, two steps; then the third prompt
    assert sizes == [4, 4, 2, 2]
