from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline, plant_neuron
from unmemorize import Model, NeuronFile, Run, Statistics, Threshold, load_pipeline
from unmemorize.cli import main

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved tiny model that has memorized one prompt, and prompt files."""
    folder = tmp_path_factory.mktemp("cli")
    pipe = make_pipeline()
    plant_neuron(pipe, next(iter(Model(pipe).value_layers)), 3)
    pipe.save_pretrained(folder / "model")
    (folder / "unmemorized.txt").write_text("\n".join(PROMPTS))
    (folder / "prompts.csv").write_text(f"prompt,kind\n{PLANTED_PROMPT},VM\nc word [/b],\n")
    return folder


@pytest.mark.parametrize("command", ["demo", "statistics", "threshold", "detect", "localize", "generate", "evaluate", "report", "testbed"])
def test_help_explains_every_command(cli: Cli, command: str) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert "Usage:" in out
    assert len(out) > 300


def test_the_whole_way_on_a_model_from_a_folder(cli: Cli, folder: Path, tmp_path: Path) -> None:
    model = ("--model", folder / "model", "--device", "cpu", "--local-files-only")
    code, out, _ = cli("statistics", *model, "--prompts", folder / "unmemorized.txt", "-o", tmp_path / "s.safetensors")
    assert (code, "6 prompts, 7 value layers" in out) == (0, True)
    assert Statistics.load(tmp_path / "s.safetensors").count == 6
    code, out, _ = cli("threshold", *model, "--prompts", folder / "unmemorized.txt", "-o", tmp_path / "t.json", "--deviations", 3)
    assert (code, "tau = " in out) == (0, True)
    assert Threshold.load(tmp_path / "t.json").deviations == 3
    common = ("--prompts", folder / "prompts.csv", "--threshold", tmp_path / "t.json")
    code, out, _ = cli("detect", *model, *common, "-o", tmp_path / "detections")
    assert (code, "1 of 2 memorized" in out) == (0, True)
    localize = ("localize", *model, *common, "--statistics", tmp_path / "s.safetensors", "--criterion", "seeds", "-o", tmp_path / "run")
    code, out, _ = cli(*localize)
    assert (code, "1 of 2 memorized" in out) == (0, True)
    first = Run.load(tmp_path / "run").records("localizations")
    neurons = NeuronFile.load(tmp_path / "run" / "neurons.json")
    neurons.check(Model(load_pipeline(str(folder / "model"), device="cpu")))
    assert len(neurons.neurons) >= 1
    assert cli(*localize)[0] == 0
    assert Run.load(tmp_path / "run").records("localizations") == first
    code, _, err = cli(*localize, "--theta", 4)
    assert (code, "made with theta = 5.0, now it is 4.0" in err) == (1, True)
    code, _, err = cli("evaluate", tmp_path / "run")
    assert (code, "no original images" in err) == (1, True)
    code, _, _ = cli("generate", tmp_path / "run", *model, "--images", 2, "--steps", 2, "--guidance", 2)
    assert code == 0
    code, out, _ = cli("evaluate", tmp_path / "run")
    assert (code, "CLIP none" in out) == (0, True)
    assert "same as before, neurons off" in (tmp_path / "run" / "metrics.json").read_text()
    code, out, _ = cli("report", tmp_path / "run")
    assert (code, "report.html" in out) == (0, True)
    assert PLANTED_PROMPT in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("detect", "-o", "{tmp}/run"), "no prompts given"),
        (("detect", "--prompts", "{tmp}/none.txt", "-o", "{tmp}/run"), "none.txt: the prompt file cannot be read"),
        (("detect", "--prompts", "{folder}/unmemorized.txt", "-o", "{tmp}/run"), "no threshold given"),
        (
            ("detect", "--prompts", "{folder}/unmemorized.txt", "--threshold", "{tmp}/none.json", "-o", "{tmp}/run"),
            "none.json: the threshold file",
        ),
        (("localize", "--prompts", "{folder}/unmemorized.txt", "-o", "{tmp}/run"), "no statistics given"),
        (("generate", "{tmp}/run"), "run manifest cannot be read"),
        (("statistics", "-o", "{tmp}/s.safetensors", "--prompts", "{folder}/unmemorized.txt", "--dtype", "half"), "dtype 'half': unknown"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_1(
    cli: Cli, folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    filled = [argument.format(tmp=tmp_path, folder=folder) for argument in arguments]
    code, _, err = cli(*filled, "--model", folder / "model", "--device", "cpu")
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_a_missing_model_is_named(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("statistics", "--model", tmp_path / "nowhere", "--local-files-only", "-o", tmp_path / "s.safetensors")
    assert (code, "nowhere: the model cannot be loaded" in err) == (1, True)


def test_wrong_usage_has_exit_code_2(cli: Cli) -> None:
    assert cli("localize")[0] == 2
    assert cli("nonsense")[0] == 2
    assert cli("report", "--nonsense")[0] == 2


def test_ctrl_c_says_how_to_go_on(cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmemorize.cli.statistics.compute_statistics", interrupt)
    code, _, err = cli("statistics", "--model", folder / "model", "--prompts", folder / "unmemorized.txt", "-o", tmp_path / "s.safetensors")
    assert (code, "goes on from there" in err) == (130, True)


def test_main_returns_zero_without_work() -> None:
    assert main(["--help"]) == 0
