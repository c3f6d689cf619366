from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from conftest import make_pipeline
from unmemorize import (
    ClipAlignment,
    ExportError,
    GenerationSettings,
    Model,
    NeuronFile,
    Neurons,
    Run,
)
from unmemorize.export import model_card
from unmemorize.generation import ImageSet, NeuronSet, generate_all
from unmemorize.metrics import BundledDescriptor, evaluate_all
from unmemorize.report import read_results, summary_table


def neurons_of(pipe: DiffusionPipeline) -> NeuronFile:
    model = Model(pipe)
    return NeuronFile.of(
        model,
        Neurons({next(iter(model.value_layers)): [3]}),
        found={"prompts": 3, "memorized": 1, "tau": 0.4},
    )


def test_a_card_says_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: openrail\n---\n")
    text = model_card(neurons_of(make_pipeline()), base=tmp_path)
    header = text.split("---\n")[1]
    assert "license: openrail\n" in header
    assert "library_name: diffusers\n" in header
    assert "- memorized: 1\n" in text
    assert "Before and after" not in text
    assert "license: other\n" in model_card(neurons_of(make_pipeline()))


def test_the_numbers_of_a_run_go_into_it(
    run: Run, planted: DiffusionPipeline, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="unmemorize evaluate RUN"):
        model_card(neurons_of(planted), run=run)
    for name in ("original", "refined"):
        generate_all(
            run,
            planted,
            ImageSet(neurons=NeuronSet.parse(name)),
            GenerationSettings(images=2, steps=2),
        )
        evaluate_all(run, name, descriptor=BundledDescriptor(), alignment=ClipAlignment())
    table = summary_table(read_results(run), None)
    run.write("metrics.json", table.to_json())
    text = model_card(neurons_of(planted), run=run)
    assert "## Before and after" in text
    assert "the neurons of each prompt alone off" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert any(line.startswith("| SSCD_Orig") and "[" in line for line in rows)
    assert (
        len({line.count("|") for line in rows if not line.startswith("| `")} - {3}) == 1
    )  # one width


def test_a_card_says_no_more_than_is_known(run: Run) -> None:
    pipe = make_pipeline()
    plain = NeuronFile.of(Model(pipe), neurons_of(pipe).neurons, scale=0.5)
    text = model_card(plain, license_name="mit")
    assert "license: mit\n" in text
    assert "1 value neuron at 0.5 of full strength" in text
    assert "found by localizing" not in text
    assert "Only the prompts counted above" not in text
    both = neurons_of(pipe).combine(neurons_of(pipe), "union")
    assert "- union, part 2, memorized: 1\n" in model_card(both)
    with pytest.raises(ExportError, match="a run of another model"):
        model_card(replace(plain, fingerprint="other"), run=run)


def test_a_damaged_table_is_no_card(run: Run, planted: DiffusionPipeline) -> None:
    run.write("metrics.json", "{}")
    with pytest.raises(ExportError, match=r"metrics.json: damaged"):
        model_card(neurons_of(planted), run=run)
