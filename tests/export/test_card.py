from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    model_fixture,
    own_model_fixture,
    saved_model_fixture,
    some_neurons,
)
from unmemorize import (
    ClosedFormEdit,
    Erased,
    ExportError,
    Model,
    NeuronFile,
    Neurons,
    Run,
    export_lora,
)
from unmemorize.export import model_card
from unmemorize.generation import EditFile
from unmemorize.report._table import Cell, Row, Table

FOUND = {"prompts": 3, "memorized": 1, "tau": 0.4}


def two_neurons(model: Model, scale: float = 0.0) -> NeuronFile:
    layer = next(iter(model.value_layers))
    return NeuronFile.of(model, Neurons({layer: [3, 5]}), scale=scale, found=FOUND)


def header(text: str) -> dict[str, Any]:
    """The header as the Hub reads it, without what is not set."""
    return {key: value for key, value in vars(ModelCard(text).data).items() if value is not None}


def test_a_card_says_what_was_done(own_model: Model, tmp_path: Path) -> None:
    neurons = two_neurons(own_model, 0.25)
    assert header(model_card(own_model, neurons))["license"] == "other"
    (tmp_path / "base" / "README.md").write_text("---\nlicense: openrail\n---\n")
    text = model_card(own_model, neurons)
    assert header(text) == {
        "library_name": "diffusers",
        "license": "openrail",
        "pipeline_tag": "text-to-image",
        "tags": ["unmemorize", "memorization", "diffusers"],
    }
    layer = next(iter(own_model.value_layers))
    assert "# base, with 2 value neurons at 0.25 of full strength\n" in text
    assert "`base`, with 2 value neurons at 0.25 of full strength. It was made by" in text
    assert f"| `{layer}` | 3, 5 | 0.25 |\n" in text
    assert f"- fingerprint: `{own_model.fingerprint}`\n" in text
    assert "- memorized: 1\n" in text
    assert "Before and after" not in text
    assert "strength 1" not in text


@pytest.mark.parametrize("card", ["no header", "---\nlicense: [\n---\n", "---\n- a\n---\n", ""])
def test_a_base_whose_card_names_no_license(own_model: Model, card: str, tmp_path: Path) -> None:
    (tmp_path / "base" / "README.md").write_text(card)
    text = model_card(own_model, two_neurons(own_model))
    assert header(text)["license"] == "other"


def test_the_card_of_a_lora(model: Model) -> None:
    neurons = two_neurons(model)
    text = model_card(model, neurons, lora=True)
    assert header(text)["tags"] == ["unmemorize", "memorization", "diffusers", "lora"]
    assert "A LoRA for `base`" in text
    assert "switched off at strength 1, and left alone at strength 0." in text
    assert "with 2 value neurons switched off" in text


def test_the_card_of_a_lora_says_which_file_is_for_which_program(
    saved_model: Saved, model: Model, tmp_path: Path
) -> None:
    programs = "ComfyUI, A1111, Forge, InvokeAI, kohya's scripts"
    kohya = f"| `base-unmemorized-kohya.safetensors` | {programs} |"
    diffusers = "| `pytorch_lora_weights.safetensors` | diffusers (load_lora_weights) |"
    neurons = two_neurons(model)
    text = model_card(model, neurons, lora=True)
    assert f"\n\n| file | for |\n|---|---|\n{diffusers}\n{kohya}\n\n| layer |" in text
    assert kohya not in model_card(model, neurons, lora=True, layout="diffusers")
    assert diffusers not in model_card(model, neurons, lora=True, layout="kohya")
    assert "| file |" not in model_card(model, neurons)
    files = export_lora(model, neurons, tmp_path, card=text)
    assert all(f"| `{file.name}` |" in text for file in files)
    flux = saved_model("Flux")
    assert "kohya.safetensors` | ComfyUI, Forge |" in model_card(
        flux, some_neurons(flux), lora=True
    )


def test_the_base_is_one_of_the_hub(own_model: Model) -> None:
    neurons = replace(two_neurons(own_model), model="owner/model", revision="abc")
    pipe = own_model.pipe
    pipe.register_to_config(_name_or_path="owner/model")
    text = model_card(pipe, neurons)
    assert header(text)["base_model"] == "owner/model"
    assert header(text)["base_model_relation"] == "finetune"
    assert header(model_card(pipe, neurons, lora=True))["base_model_relation"] == "adapter"
    assert "- base model: `owner/model`, revision `abc`\n" in text


@pytest.mark.parametrize("name", ["/home/me/secret/model", "../secret/model", "secret/model", "m"])
def test_local_paths_stay_out_of_a_card(
    own_model: Model, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that could be an id of the Hub, because it is a folder here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "model").mkdir(parents=True)
    own_model.pipe.register_to_config(_name_or_path=name)
    text = model_card(own_model.pipe, replace(two_neurons(own_model), model=name))
    assert "base_model" not in header(text)
    assert "secret" not in text


def test_a_model_of_the_hub_is_known_by_how_it_was_loaded(own_model: Model) -> None:
    assert own_model.loading is not None
    loading = replace(own_model.loading, model="owner/model")
    model = Model(own_model.pipe, loading=loading)
    assert header(model_card(model, two_neurons(model)))["base_model"] == "owner/model"


def test_a_caption_stays_in_its_cell(own_model: Model) -> None:
    """A line break would end the table, a bar the cell."""
    erased = (
        Erased("a cat\nby the | sea", guide="a\r\n\r\n| b"),
        Erased("a\u2028dog\x85", guide=""),
    )
    text = model_card(own_model, EditFile.of(own_model, ClosedFormEdit(erased)))
    rows = text.split("| caption | reads like |\n|---|---|\n")[1].split("\n\n")[0]
    assert rows.split("\n") == [
        "| a cat by the \\| sea | a \\| b |",
        "| a dog | (the empty prompt) |",
    ]


def test_a_group_stays_in_its_cell(planted_card: tuple[Model, NeuronFile], run: Run) -> None:
    rows = (Row("copy\nscore | a", (Cell(value=1.0, count=1),)),)
    table = Table(columns=("one\n| two",), rows=rows, notes=())
    run.write("metrics.json", table.to_json())
    text = model_card(*planted_card, run=run)
    assert "\n| | one \\| two |\n|---|---|\n| copy score \\| a | 1.00 (n=1) |\n" in text


def evaluated(run: Run) -> Table:
    copies = Cell(value=0.9, spread=0.1, low=0.8, high=1.0, count=3)
    neurons = (Cell(value=4, count=3), Cell(value=0.5, hits=1, count=2))
    table = Table(
        columns=("VM", "TM"),
        rows=(Row("copy score", (copies, Cell()), "x"), Row("neurons", neurons)),
        notes=("a note",),
    )
    run.write("metrics.json", table.to_json())
    return table


def test_the_numbers_of_a_run_go_into_it(planted_card: tuple[Model, NeuronFile], run: Run) -> None:
    model, neurons = planted_card
    with pytest.raises(ExportError, match="unmemorize evaluate RUN"):
        model_card(model, neurons, run=run)
    table = evaluated(run)
    text = model_card(model, neurons, run=run)
    assert "## Before and after" in text
    assert "each prompt has its own neurons off" in " ".join(text.split())
    cell = table.rows[0].cells[0]
    assert f"| copy score (x) | {cell.figure} [{cell.interval}] |  |\n" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert any(line.startswith("| copy score") and "[" in line for line in rows)
    widths = {line.count("|") for line in rows if not line.startswith("| `")} - {3}
    assert widths == {4}
    assert "\na note\n" in text


@pytest.fixture
def planted_card(planted: object) -> tuple[Model, NeuronFile]:
    model = Model(planted)
    return model, two_neurons(model)


def test_a_card_says_no_more_than_is_known(model: Model, run: Run) -> None:
    plain = some_neurons(model)
    text = model_card(model, plain, license_name="mit")
    assert header(text)["license"] == "mit"
    assert "made by localizing" not in text
    assert "the prompts counted above" not in text
    single = NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [3]}), scale=0.5)
    assert "1 value neuron at 0.5 of full strength" in model_card(model, single)
    both = two_neurons(model).combine(two_neurons(model), "union")
    assert "- union, part 2, memorized: 1\n" in model_card(model, both)
    with pytest.raises(ExportError, match="a run of another model"):
        model_card(model, replace(plain, fingerprint="other"), run=run)


@pytest.mark.parametrize("content", ["{}", '{"columns": ["a"], "rows": [1], "notes": []}'])
def test_a_damaged_table_is_no_card(
    planted_card: tuple[Model, NeuronFile], run: Run, content: str
) -> None:
    run.write("metrics.json", content)
    with pytest.raises(ExportError, match=r"metrics.json: damaged"):
        model_card(*planted_card, run=run)
