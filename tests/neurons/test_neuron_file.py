from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from records import localization
from unmemorize import Model, NeuronError, NeuronFile, Neurons
from unmemorize.neurons import Operation

FILE = NeuronFile(
    neurons=Neurons({"b": [7], "a": [5, 0]}),
    model="some/model",
    fingerprint="f" * 64,
    revision="main",
    scale=-0.5,
    found={"prompts": 3, "taus": [0.1, 0.2]},
)
TEXT = """\
{
 "fingerprint": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
 "found": {
  "prompts": 3,
  "taus": [
   0.1,
   0.2
  ]
 },
 "model": "some/model",
 "neurons": {
  "a": [
   0,
   5
  ],
  "b": [
   7
  ]
 },
 "revision": "main",
 "scale": -0.5,
 "schema": "unmemorize.neurons/1"
}
"""


@pytest.fixture
def some(pipe: DiffusionPipeline) -> Neurons:
    first, *_, last = Model(pipe).value_layers
    return Neurons({first: [0, 5], last: [7]})


def test_the_schema_is_written_byte_by_byte(tmp_path: Path) -> None:
    FILE.save(tmp_path / "neurons.json")
    assert (tmp_path / "neurons.json").read_text() == TEXT


@pytest.mark.parametrize("scale", [float("nan"), 1e6, -1e6, "0", None])
def test_a_file_that_could_not_be_read_again_is_not_made(scale: Any) -> None:
    with pytest.raises(NeuronError, match=r"scale=.* neurons are multiplied by a number between"):
        replace(FILE, scale=scale)


def test_every_field_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "neurons.json").write_text(TEXT)
    assert NeuronFile.load(tmp_path / "neurons.json") == FILE


def test_a_file_of_a_model_fits_that_model(
    pipe: DiffusionPipeline, some: Neurons, tmp_path: Path
) -> None:
    model = Model(pipe)
    file = NeuronFile.of(model, some, scale=0.25, found={"prompts": 3})
    assert (file.model, file.fingerprint) == (model.name, model.fingerprint)
    file.save(tmp_path / "neurons.json")
    loaded = NeuronFile.load(tmp_path / "neurons.json")
    assert loaded == file
    loaded.check(model)


def test_a_file_can_be_made_of_a_pipeline_and_a_localization(
    pipe: DiffusionPipeline, some: Neurons
) -> None:
    file = NeuronFile.of(pipe, localization("a cat", "VM", 0.5, some))
    assert (file.neurons, file.scale, file.fingerprint) == (some, 0.0, Model(pipe).fingerprint)


def test_a_file_of_another_model_is_refused(pipe: DiffusionPipeline, some: Neurons) -> None:
    file = NeuronFile.of(Model(pipe), some)
    pipe.unet.get_submodule(next(iter(some.layers))).weight.data += 1
    with pytest.raises(NeuronError, match="were found in"):
        file.check(Model(pipe))


def test_neurons_that_the_model_does_not_have_are_refused(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    with pytest.raises(NeuronError, match="no such value layer"):
        NeuronFile.of(model, Neurons({"nowhere": [0]}))
    file = replace(FILE, fingerprint=model.fingerprint)
    with pytest.raises(NeuronError, match="no such value layer"):
        file.check(model)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("union", Neurons({"a": [0, 5, 6], "b": [7], "c": [1]})),
        ("intersection", Neurons({"a": [5]})),
        ("difference", Neurons({"a": [0], "b": [7]})),
    ],
)
def test_two_files_are_combined(operation: Operation, expected: Neurons) -> None:
    other = replace(FILE, neurons=Neurons({"a": [5, 6], "c": [1]}), found={"prompts": 4})
    combined = FILE.combine(other, operation)
    assert combined == replace(
        FILE, neurons=expected, found={operation: [dict(FILE.found), {"prompts": 4}]}
    )


@pytest.mark.parametrize("change", [{"scale": 0.5}, {"fingerprint": "other"}])
def test_files_of_different_models_or_scales_are_not_combined(change: dict[str, Any]) -> None:
    with pytest.raises(NeuronError, match=f"differ in their {next(iter(change))}"):
        FILE.combine(replace(FILE, **change), "union")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/1"}, "schema 'other/1'"),
        ({"neurons": [1]}, "an object of layers"),
        ({"neurons": {"a": 3}}, "an object of layers"),
        ({"neurons": {"a": [-3]}}, "whole numbers"),
        ({"scale": "0"}, r"Expected `float`, got `str` - at `\$.scale`"),
        ({"scale": True}, r"Expected `float`, got `bool` - at `\$.scale`"),
        ({"scale": 1e6}, r"Expected `float` < 1000000.0 - at `\$.scale`"),
        ({"scale": -1e6}, r"Expected `float` > -1000000.0 - at `\$.scale`"),
        ({"revision": 3}, r"got `int` - at `\$.revision`"),
        ({"model": None}, r"Expected `str`, got `null` - at `\$.model`"),
        ({"fingerprint": None}, r"Expected `str`, got `null` - at `\$.fingerprint`"),
        ({"found": None}, r"Expected `object`, got `null` - at `\$.found`"),
        ({"model": "red \x1b[31m"}, "control characters"),
        ({"found": {"prompt\x07": 1}}, "control characters"),
        ({"found": {"prompts": [{"text": "half \ud83d"}]}}, "half of a character"),
    ],
)
def test_malformed_files_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "neurons.json"
    path.write_text(json.dumps(json.loads(TEXT) | change))
    with pytest.raises(NeuronError, match=message) as caught:
        NeuronFile.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["model", "revision", "fingerprint", "scale", "neurons", "found"])
def test_nothing_may_be_missing(name: str) -> None:
    """A file that has lost its scale must not be taken for one with scale 0."""
    content = json.loads(TEXT)
    del content[name]
    with pytest.raises(NeuronError, match=rf"x\.json: .*missing required field `{name}`"):
        NeuronFile.from_json(content, "x.json")


def test_missing_files_nan_and_bottomless_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "neurons.json"
    with pytest.raises(NeuronError, match="cannot be read"):
        NeuronFile.load(path)
    path.write_text('{"scale": NaN}')
    with pytest.raises(NeuronError, match="NaN"):
        NeuronFile.load(path)
    path.write_text("[" * 100_000)
    with pytest.raises(NeuronError, match="not a valid neuron file"):
        NeuronFile.load(path)
    nested: dict[str, object] = {}
    for _ in range(5_000):
        nested = {"a": nested}
    with pytest.raises(NeuronError, match="nested too deeply"):
        NeuronFile.from_json(json.loads(TEXT) | {"found": nested}, "x.json")


def test_line_breaks_and_tabs_are_kept() -> None:
    content = json.loads(TEXT) | {"found": {"prompt": "two\nlines\tand a tab, ü"}}
    assert NeuronFile.from_json(content, "x.json").found == content["found"]


def test_files_are_readable_for_those_whom_the_umask_allows(tmp_path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    NeuronFile(neurons=Neurons(), model="m", fingerprint="f").save(tmp_path / "n.json")
    assert (tmp_path / "n.json").stat().st_mode & 0o777 == 0o666 & ~umask
