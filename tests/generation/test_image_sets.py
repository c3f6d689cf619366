from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from conftest import PLANTED_PROMPT, make_pipeline
from unmemorize import GenerationSettings, Neurons, Prompt, Run, RunError, generate
from unmemorize.generation import ImageSet, NeuronSet, generate_all, image_sets
from unmemorize.localization import read_localizations

FEW = GenerationSettings(images=2, steps=2, guidance=2.0)


def asked(name: str, **options: Any) -> ImageSet:
    return ImageSet(neurons=NeuronSet.parse(name), **options)


def test_every_set_has_its_folder_and_says_how_its_images_came_to_be(
    run: Run, planted: DiffusionPipeline
) -> None:
    record = read_localizations(run)[1]
    for name in ("refined", "original", "initial", "random-refined", "top-1"):
        images = generate_all(run, planted, asked(name), FEW).run
        assert sorted(path.name for path in images.folder.glob("*.png")) == [
            "00001_00.png",
            "00001_01.png",
        ]
    sets = image_sets(run)
    assert list(sets) == ["original", "initial", "random-refined", "refined", "top-1"]
    made = {name: images.records("images")[1] for name, images in sets.items()}
    assert Neurons(made["original"]["neurons"]) == Neurons()
    assert Neurons(made["initial"]["neurons"]) == record.initial
    assert Neurons(made["refined"]["neurons"]) == record.neurons
    assert not Neurons(made["random-refined"]["neurons"]) & record.neurons
    assert made["refined"]["prompt"] == PLANTED_PROMPT
    config = sets["refined"].config
    assert {
        key: config[key]
        for key in ("neurons", "seed", "steps", "guidance", "scale", "images", "format")
    } == {
        "neurons": "refined",
        "seed": 2,
        "steps": 2,
        "guidance": 2.0,
        "scale": 0.0,
        "images": 2,
        "format": "png",
    }
    expected = generate(planted, PLANTED_PROMPT, record.neurons, settings=FEW)
    with Image.open(sets["refined"].folder / "00001_01.png") as image:
        assert image.tobytes() == expected[1].tobytes()
    with pytest.raises(RunError, match="made with steps = 2, now it is 3"):
        generate_all(run, planted, asked("refined"), replace(FEW, steps=3))


def test_scales_have_folders_of_their_own(run: Run, planted: DiffusionPipeline) -> None:
    assert (
        generate_all(run, planted, asked("refined"), replace(FEW, scale=-0.5)).run.folder.name
        == "refined-scale--0.5"
    )
    originals = generate_all(run, planted, asked("original"), FEW).run
    assert (
        generate_all(run, planted, asked("original"), replace(FEW, scale=0.5)).run.folder
        == originals.folder
    )


def test_other_prompts_get_the_neurons_of_the_whole_run(
    run: Run, planted: DiffusionPipeline
) -> None:
    others = [Prompt("a cat"), Prompt("a dog"), Prompt("a bird")]
    images = generate_all(
        run, planted, asked("refined", prompts=others, label="animals"), replace(FEW, images=1)
    ).run
    assert images.folder.name == "refined-on-animals"
    records = images.records("images")
    assert [records[index]["prompt"] for index in range(3)] == ["a cat", "a dog", "a bird"]
    assert all(
        Neurons(record["neurons"]) == read_localizations(run)[1].neurons
        for record in records.values()
    )
    with pytest.raises(RunError, match="made with prompts"):
        generate_all(
            run,
            planted,
            asked("refined", prompts=others[:2], label="animals"),
            replace(FEW, images=1),
        )


@pytest.mark.parametrize("label", ["mine", "overall"])
def test_other_prompts_never_have_the_name_of_a_group(
    run: Run, planted: DiffusionPipeline, label: str
) -> None:
    with pytest.raises(RunError, match="Rename their file"):
        generate_all(run, planted, asked("original", prompts=[Prompt("a cat")], label=label), FEW)


def test_only_one_kind_of_prompts(run: Run, planted: DiffusionPipeline) -> None:
    assert list(
        generate_all(run, planted, asked("refined", only="VM"), FEW).run.records("images")
    ) == [1]
    assert asked("top-3", only="TM").name(0) == "top-3-tm"
    assert generate_all(run, planted, asked("top-3", only="TM"), FEW).run.records("images") == {}


def test_jpeg_on_demand(run: Run, planted: DiffusionPipeline) -> None:
    images = generate_all(run, planted, asked("original", format="jpeg"), FEW).run
    names = images.records("images")[1]["files"]
    assert names == ["00001_00.jpg", "00001_01.jpg"]
    with Image.open(images.folder / names[0]) as image:
        assert image.format == "JPEG"


def test_what_does_not_fit_is_refused(run: Run, planted: DiffusionPipeline) -> None:
    with pytest.raises(RunError, match="not the model given"):
        generate_all(run, make_pipeline(seed=1), asked("original"), FEW)
    run.config["noise"] = {"seed": FEW.seed}
    with pytest.raises(RunError, match="is that of its localization"):
        generate_all(run, planted, asked("original"), FEW)


def test_a_batch_goes_across_prompts(
    run: Run, planted: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes: list[int] = []
    handle = planted.unet.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    others = [Prompt(f"number {letter}") for letter in "abc"]
    generate_all(
        run,
        planted,
        asked("original", prompts=others, label="numbers"),
        replace(FEW, images=1, batch=2),
    )
    handle.remove()
    assert sizes == [
        4,
        4,
        2,
        2,
    ]  # two prompts with both halves of the guidance, two steps; then the third prompt
