"""The published files: small ones of the same form, and the real ones where they are at hand."""

import csv
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import make_pipeline
from networks import statistics_for
from tasks import AnyRun
from unmemorize import (
    GenerationSettings,
    Model,
    NeuronError,
    Neurons,
    Prompt,
    PromptError,
    Run,
    RunError,
    Statistics,
    StatisticsError,
    Threshold,
    localize,
)
from unmemorize.export import export_results, import_results, read_statistics
from unmemorize.export._published_layers import WIDTHS
from unmemorize.export._published_results import COLUMNS, ImportedRun
from unmemorize.generation import ImageSet, NeuronSet, generate_all
from unmemorize.localization import read_localizations
from unmemorize.runs import Inputs, run_prompts, start_run

PUBLISHED = (
    Path(__file__).parents[2] / "shared" / "data" / "statistics_additional_laion_prompts_v1_4.pt"
)
LAYERS = list(WIDTHS)
FEW = GenerationSettings(images=2, steps=2, guidance=2.0)
ROWS = (
    (
        "plain",
        "http://x/a.jpg",
        "[[3, 1, 3], [], [], [], [], [], [7]]",
        "0.31",
        "[[3], [], [], [], [], [], []]",
        "0.4",
    ),
    (
        'a; "quoted" caption',
        "",
        "[[], [], [], [], [], [], []]",
        "",
        "[[], [], [], [], [], [], []]",
        "",
    ),
)


def write_results(
    path: Path, rows: tuple[tuple[str, ...], ...] = ROWS, columns: tuple[str, ...] = COLUMNS
) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def searched(pipe: DiffusionPipeline) -> dict[str, int]:
    return {path: width for path, width in Model(pipe).widths.items() if not path.startswith("up")}


def test_statistics_are_bound_to_a_model(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    means, stds = statistics_for(list(searched(pipe).values()))
    torch.save((means, stds), tmp_path / "s.pt")
    found = read_statistics(tmp_path / "s.pt", Model(pipe), count=500)
    found.check(Model(pipe), searched(pipe))
    assert found.count == 500
    for path, mean, std in zip(searched(pipe), means, stds, strict=True):
        assert torch.equal(found.mean[path], mean.double())
        assert torch.equal(found.std[path], std.double())
    with pytest.raises(StatisticsError, match="another model"):
        found.check(Model(make_pipeline(seed=1)), searched(pipe))
    with pytest.raises(StatisticsError, match="have 0 neurons in up_blocks"):
        found.check(Model(pipe), Model(pipe).widths)


def test_statistics_without_a_model_have_the_published_layers(tmp_path: Path) -> None:
    torch.save(statistics_for(list(WIDTHS.values())), tmp_path / "s.pt")
    found = read_statistics(tmp_path / "s.pt")
    assert (found.fingerprint, list(found.mean)) == ("", LAYERS)
    found.save(tmp_path / "s.safetensors")
    assert set(Statistics.load(tmp_path / "s.safetensors").mean) == set(LAYERS)


def test_statistics_of_unknown_weights_fit_models_with_such_layers(pipe: DiffusionPipeline) -> None:
    widths = searched(pipe)
    values = {path: torch.ones(width, dtype=torch.float64) for path, width in widths.items()}
    unbound = Statistics(mean=values, std=values, count=2, fingerprint="", prompts="")
    unbound.check(Model(pipe), widths)
    narrow = {path: torch.ones(2, dtype=torch.float64) for path in widths}
    with pytest.raises(StatisticsError, match="have 2 neurons in"):
        Statistics(mean=narrow, std=narrow, count=2, fingerprint="", prompts="").check(
            Model(pipe), widths
        )


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Hostile(), "not a file of tensors"),
        ([1, 2], "not a pair of means"),
        ((statistics_for([320] * 7)), "not a pair of means"),
        ((statistics_for(list(WIDTHS.values())[:6])), "not a pair of means"),
        (
            tuple(
                [torch.full((width,), float("nan")) for width in WIDTHS.values()] for _ in range(2)
            ),
            "not a pair of means",
        ),
        (
            tuple(
                [torch.ones(width, dtype=torch.long) for width in WIDTHS.values()] for _ in range(2)
            ),
            "not a pair of means",
        ),
        (
            tuple([torch.full((width,), -1.0) for width in WIDTHS.values()] for _ in range(2)),
            "negative",
        ),
    ],
)
def test_other_contents_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    torch.save(content, tmp_path / "s.pt")
    with pytest.raises(StatisticsError, match=message):
        read_statistics(tmp_path / "s.pt")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"text", b"\x80\x02.", b"PK\x03\x04broken"])
def test_other_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.pt").write_bytes(data)
    with pytest.raises(StatisticsError):
        read_statistics(tmp_path / "s.pt")


def test_files_far_too_large_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "s.pt").open("wb") as file:
        file.truncate(65 * 1024**2)
    with pytest.raises(StatisticsError, match="too large for a published file"):
        read_statistics(tmp_path / "s.pt")


@pytest.mark.skipif(
    not PUBLISHED.exists(),
    reason="the published statistics are at hand on some machines only",
)
def test_published_statistics(tmp_path: Path) -> None:
    found = read_statistics(PUBLISHED)
    raw = torch.load(PUBLISHED, weights_only=True)
    assert {path: len(mean) for path, mean in found.mean.items()} == WIDTHS
    assert all(
        torch.equal(found.std[path].float(), std.float())
        for path, std in zip(LAYERS, raw[1], strict=True)
    )


def test_results_become_a_run_and_come_back(tmp_path: Path) -> None:
    file = write_results(tmp_path / "results.csv")
    prompts = [Prompt("plain", "VM", images=(Path("a.png"),))]
    run = import_results(file, tmp_path / "run", prompts=prompts)
    found = read_localizations(run)
    assert [(prompt.text, prompt.kind, prompt.url) for prompt in run_prompts(run)] == [
        ("plain", "VM", "http://x/a.jpg"),
        ('a; "quoted" caption', None, None),
    ]
    assert found[0].initial == Neurons({LAYERS[0]: [1, 3], LAYERS[6]: [7]})
    assert found[0].neurons == Neurons({LAYERS[0]: [3]})
    assert (found[0].initial_score, found[0].score, found[0].group, found[0].theta_exhausted) == (
        0.31,
        0.4,
        "VM",
        None,
    )
    assert [record.memorized for record in found.values()] == [True, False]
    import_results(file, tmp_path / "run", prompts=prompts)
    assert len((tmp_path / "run" / "localizations.jsonl").read_text().splitlines()) == 2
    other = write_results(tmp_path / "other.csv", ROWS[:1])
    with pytest.raises(RunError, match=r"or read this file into another folder\.$"):
        import_results(other, tmp_path / "run", prompts=prompts)  # import-upstream has no --new-run
    assert export_results(run, tmp_path / "back.csv") == 2
    again = import_results(tmp_path / "back.csv", tmp_path / "again", prompts=prompts)
    assert read_localizations(again) == found


def test_an_own_run_is_exported_by_its_searched_layers(
    run: Run, planted: DiffusionPipeline, tmp_path: Path
) -> None:
    model = Model(planted)
    assert export_results(run, tmp_path / "out.csv") == 3
    back = import_results(tmp_path / "out.csv", tmp_path / "back", model)
    assert back.settings(ImportedRun).searched == tuple(searched(planted))
    imported = read_localizations(back)
    for index, record in read_localizations(run).items():
        assert imported[index].neurons == record.neurons
        assert imported[index].initial == record.initial
        assert imported[index].score == record.score
    images = generate_all(back, model, ImageSet(neurons=NeuronSet.parse("top-1")), FEW).run
    assert list(images.records("images")) == [1]


def test_a_run_that_localizes_nothing_has_no_results(tmp_path: Path) -> None:
    inputs = Inputs(fingerprint="f")
    run = start_run(tmp_path / "run", [Prompt("a")], AnyRun(), inputs, model="m")
    with pytest.raises(RunError, match="a run of kind any, which localizes nothing"):
        export_results(run, tmp_path / "out.csv")


def test_imported_neurons_do_not_fit_another_model(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    rows = (
        (
            "a",
            "",
            "[[319], [], [], [], [], [], []]",
            "0.3",
            "[[319], [], [], [], [], [], []]",
            "0.3",
        ),
    )
    run = import_results(write_results(tmp_path / "results.csv", rows), tmp_path / "run")
    with pytest.raises(NeuronError, match="neuron 319 does not exist"):
        generate_all(run, Model(pipe), ImageSet(neurons=NeuronSet.parse("refined")), FEW)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (ROWS, ("Caption", "URL", "Initial Neurons", "x", "y", "z"), "no column 'Initial SSIM'"),
        ((), COLUMNS, "no rows"),
        (
            (("a", "", "[[1]]", "0.1", ROWS[0][4], "0.1"),),
            COLUMNS,
            r"row 1, Initial Neurons: '\[\[1\]\]' is not a list of 7 lists",
        ),
        (
            (("a", "", ROWS[0][2], "0.1", "[[320], [], [], [], [], [], []]", "0.1"),),
            COLUMNS,
            "Refined Neurons",
        ),
        (
            (("a", "", ROWS[0][2], "0.1", "[[true], [], [], [], [], [], []]", "0.1"),),
            COLUMNS,
            "Refined Neurons",
        ),
        ((("a", "", "__import__('os')", "0.1", ROWS[0][4], "0.1"),), COLUMNS, "is not a list"),
        ((("a", "", "[" * 100_000, "0.1", ROWS[0][4], "0.1"),), COLUMNS, "is not a list"),
        (
            (("a", "", ROWS[0][2], "tensor", ROWS[0][4], "0.1"),),
            COLUMNS,
            "'tensor' is not a similarity",
        ),
        ((("a", "", ROWS[0][2], "nan", ROWS[0][4], "0.1"),), COLUMNS, "'nan' is not a similarity"),
        ((("a", "", ROWS[0][2]),), COLUMNS, "more or fewer than 6 fields"),
        (
            (ROWS[0], (" ", *ROWS[0][1:])),
            COLUMNS,
            r"results.csv, row 2: an empty prompt\. Leave it out",
        ),
    ],
)
def test_malformed_results_are_refused(
    tmp_path: Path, rows: tuple[tuple[str, ...], ...], columns: tuple[str, ...], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        import_results(write_results(tmp_path / "results.csv", rows, columns), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_localization_takes_published_statistics(
    planted: DiffusionPipeline, tmp_path: Path
) -> None:
    means, stds = statistics_for(list(searched(planted).values()))
    torch.save((means, stds), tmp_path / "s.pt")
    found = localize(
        planted,
        "c word",
        statistics=read_statistics(tmp_path / "s.pt", Model(planted)),
        threshold=Threshold.given(planted, 0.999),
    )
    assert not found.memorized
