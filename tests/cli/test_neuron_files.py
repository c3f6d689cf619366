from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import make_pipeline
from unmemorize import Model, NeuronError, NeuronFile, Neurons

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three overlapping neuron files of one model, and one of another."""
    paths = []
    for number, indices in enumerate(([0, 1, 2], [1, 2, 3], [2, 7])):
        model = Model(make_pipeline())
        path = next(iter(model.value_layers))
        paths.append(tmp_path / f"{number}.json")
        NeuronFile.of(model, Neurons({path: indices}), found={"prompts": number}).save(paths[-1])
    other = Model(make_pipeline(seed=1))
    paths.append(tmp_path / "other.json")
    NeuronFile.of(other, Neurons()).save(paths[-1])
    return paths


@pytest.mark.parametrize(
    ("operation", "expected"),
    [("union", {0, 1, 2, 3, 7}), ("intersection", {2}), ("difference", {0})],
)
def test_set_algebra(
    cli: Cli, files: list[Path], tmp_path: Path, operation: str, expected: set[int]
) -> None:
    code, out, _ = cli("neurons", operation, *files[:3], "-o", tmp_path / "out.json")
    number = "1 neuron:" if len(expected) == 1 else f"{len(expected)} neurons:"
    assert (code, number in out) == (0, True)
    combined = NeuronFile.load(tmp_path / "out.json")
    assert {index for _, index in combined.neurons} == expected
    assert combined.fingerprint == NeuronFile.load(files[0]).fingerprint
    assert operation in combined.found
    code, out, _ = cli("neurons", "show", tmp_path / "out.json")
    assert (
        code,
        combined.fingerprint[:12] in out,
        ", ".join(map(str, sorted(expected))) in out,
    ) == (0, True, True)


def test_a_folder_is_not_taken_for_a_neuron_file(
    cli: Cli, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    code, out, err = cli("neurons", "union", *files[:2], "-o", tmp_path / "folder")
    assert (code, out, f"{tmp_path / 'folder'}: is a folder. Name a file." in err) == (1, "", True)
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize(
    ("operation", "names"),
    [("difference", (0, 0)), ("intersection", (0, "none")), ("union", ("none", "none"))],
)
def test_nothing_is_done_with_no_neurons(
    cli: Cli, files: list[Path], tmp_path: Path, operation: str, names: tuple[object, object]
) -> None:
    NeuronFile.of(Model(make_pipeline()), Neurons()).save(tmp_path / "none.json")
    operands = [tmp_path / f"{name}.json" for name in names]
    code, out, _ = cli("neurons", operation, *operands, "-o", tmp_path / "out.json")
    assert (code, "0 neurons: " in out, "Next:" in out) == (0, True, False)
    assert out.endswith("No neuron is left, so there is nothing to switch off or to export.")
    code, out, _ = cli("neurons", "show", tmp_path / "out.json")
    assert (code, "nothing to switch off or to export" in out, "Next:" in out) == (0, True, False)


def test_files_that_do_not_go_together(cli: Cli, files: list[Path], tmp_path: Path) -> None:
    code, _, err = cli("neurons", "union", files[0], files[3], "-o", tmp_path / "out.json")
    assert (code, "differ in their fingerprint" in err) == (1, True)
    assert cli("neurons", "union", files[0], "-o", tmp_path / "out.json")[0] == 2
    model = Model(make_pipeline())
    halves = NeuronFile.of(model, Neurons(), scale=0.5)
    with pytest.raises(NeuronError, match="differ in their scale"):
        NeuronFile.load(files[0]).combine(halves, "union")


def test_value_layers_are_named_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    make_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a b\nc d\n")
    model = ("--model", tmp_path / "model", "--device", "cpu")
    inputs = ("--prompts", tmp_path / "prompts.txt", "-o", tmp_path / "s.safetensors")
    code, out, _ = cli("statistics", *model, *inputs, "--value-layers", "mid_block.*.attn2.to_v")
    assert (code, "2 prompts, 1 value layers" in out) == (0, True)


def test_show_cuts_no_name(cli: Cli, tmp_path: Path) -> None:
    model = Model(make_pipeline())
    every = Neurons({path: range(layer.out_features) for path, layer in model.value_layers.items()})
    NeuronFile.of(model, every).save(tmp_path / "many.json")
    code, out, _ = cli("neurons", "show", tmp_path / "many.json")
    assert (code, "…" in out) == (0, False)
