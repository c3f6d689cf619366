"""Edits of a model with LoRAs, in forms that plain diffusers loads."""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from artefacts import (  # noqa: F401 -- fixtures
    Saved,
    prediction,
    saved_model_fixture,
    uneven_neurons,
)
from styles import save_style
from unmemorize import (
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    CombinedEdit,
    EditFile,
    Erased,
    ExportError,
    Model,
    NeuronEdit,
    NeuronError,
    NeuronFile,
    Reread,
    bake,
    export_lora,
    export_single_file,
    verify,
)
from unmemorize.export import export_all, model_card
from unmemorize.export._carried import carried_edit
from unmemorize.export._rows import read_header
from unmemorize.generation import Edit, PrunedEdit
from unmemorize.pipelines import quiet_loading

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")

Cli = Callable[..., tuple[int, str, str]]
STRENGTH = 0.6
NAMES = ("Stable Diffusion", "Stable Diffusion 3")


class Styled:
    """A model in a folder, a LoRA for it, and an edit of both together."""

    def __init__(self, model: Model, folder: Path) -> None:
        assert model.loading is not None
        self.base = model.loading.model
        self.is_sd = hasattr(model.pipe, "unet")
        self.style = save_style(self.base, folder, text=self.is_sd)
        self.model = self.loaded(STRENGTH)
        self.neurons = uneven_neurons(self.model, -0.25)
        parts: tuple[Edit, ...] = (NeuronEdit(self.neurons.neurons, -0.25),)
        if self.is_sd:
            closed = ClosedFormEdit((Erased("a prompt", 3.0),), ("a dog",))
            reread = Reread("a prompt", self.neurons.neurons, 3.0, reach=1.5)
            parts = (closed, ClosedFormNeuronEdit((reread,), ("a dog",)), *parts)
        self.edit = CombinedEdit(parts)
        self.file = EditFile.of(self.model, self.edit)
        self.expected = self.edited(self.model)

    def loaded(self, strength: float) -> Model:
        return Model.load(
            self.base, device="cpu", local_files_only=True, loras={str(self.style): strength}
        )

    def edited(self, model: Model) -> torch.Tensor:
        with self.edit.applied(model, [True]):
            return prediction(model)


@pytest.fixture(scope="module", name="styled_models")
def styled_models_fixture(
    saved_model: Saved, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Styled]:
    return {name: Styled(saved_model(name), tmp_path_factory.mktemp("style")) for name in NAMES}


@pytest.fixture(params=NAMES, name="each")
def each_fixture(request: pytest.FixtureRequest, styled_models: dict[str, Styled]) -> Styled:
    return styled_models[request.param]


@pytest.fixture(name="styled")
def styled_fixture(styled_models: dict[str, Styled]) -> Styled:
    return styled_models["Stable Diffusion"]


def plain(folder: str | Path) -> Any:
    with quiet_loading():
        return DiffusionPipeline.from_pretrained(str(folder))


def beside(styled: Styled, lora: Path, strength: float = STRENGTH) -> torch.Tensor:
    """What plain diffusers predicts with the style and the exported LoRA."""
    pipe = plain(styled.base)
    with quiet_loading():
        pipe.load_lora_weights(styled.style.parent, weight_name=styled.style.name, adapter_name="a")
        pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="b")
    pipe.set_adapters(["a", "b"], [strength, 1.0])
    return prediction(Model(pipe))


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_lora_beside_others(each: Styled, tmp_path: Path) -> None:
    files = export_lora(each.model, each.file, tmp_path)
    assert len(files) == 2
    assert not close(each.expected, prediction(each.model))
    assert not close(each.expected, each.edited(Model(plain(each.base))))
    for file in files if each.is_sd else files[:1]:  # diffusers reads no kohya layout of 3
        assert close(beside(each, file), each.expected)
        assert not close(beside(each, file, 1.0), each.expected)
    verification = verify(tmp_path, each.model)
    assert (verification.passed, verification.edit) == (True, each.file)
    digest = hashlib.sha256(each.style.read_bytes()).hexdigest()
    (lora,) = verification.loras
    assert (lora.name, lora.strengths, lora.sha256) == ("my_style", (STRENGTH,), digest)
    for file in files:
        assert json.loads(read_header(file).metadata["unmemorize_loras"]) == {
            "loras": [{"name": "my_style", "strengths": [STRENGTH], "sha256": digest}]
        }


def test_a_checkpoint_with_base_lora_and_edit(each: Styled, tmp_path: Path) -> None:
    folder = bake(each.model, each.file, tmp_path / "edited")
    loaded = Model(plain(folder))
    assert loaded.loras == ()
    assert close(prediction(loaded), each.expected)
    verification = verify(folder, each.model)
    assert (verification.passed, verification.edit) == (True, each.file)
    changed = {change.file.partition("/")[0] for change in verification.changes}
    assert changed == ({"unet", "text_encoder"} if each.is_sd else {"transformer"})
    for name in ("vae/diffusion_pytorch_model.safetensors", "model_index.json"):
        assert filecmp.cmp(folder / name, Path(each.base) / name, shallow=False)


def test_layers_that_nothing_changes_keep_their_bytes(styled: Styled, tmp_path: Path) -> None:
    folder = bake(styled.model, styled.neurons, tmp_path / "edited")
    for component, untouched in (("unet", "resnets.0.conv2"), ("text_encoder", "v_proj")):
        (file,) = (folder / component).glob("*.safetensors")
        before, after = load_file(Path(styled.base) / component / file.name), load_file(file)
        differing = {key for key in before if not torch.equal(before[key], after[key])}
        assert differing
        assert any(untouched in key for key in before)
        assert not any(untouched in key or key.endswith("bias") for key in differing)


def test_live_adapters_of_any_alpha_fused_or_not(styled: Styled, tmp_path: Path) -> None:
    from peft import LoraConfig

    pipe = plain(styled.base)
    torch.manual_seed(4)
    for name, alpha in (("one", 6), ("two", 1)):
        config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["to_v"], init_lora_weights=False)
        pipe.unet.add_adapter(config, adapter_name=name)
    pipe.unet.set_adapters(["one", "two"], [0.1, -0.5])
    model = Model(pipe)
    assert [str(lora) for lora in model.loras] == ["one at 0.1", "two at -0.5"]
    assert model.name.endswith(" with one at 0.1 and two at -0.5")
    neurons = NeuronFile.of(model, styled.neurons.neurons, scale=0.5)
    expected = {}
    for strength in (1.0, 0.0):
        with NeuronEdit(neurons.neurons, 1 - 0.5 * strength).applied(model, [True]):
            expected[strength] = prediction(model)
    assert verify(bake(model, neurons, tmp_path / "baked"), model).passed
    assert close(prediction(Model(plain(tmp_path / "baked"))), expected[1.0])
    (file,) = export_lora(model, neurons, tmp_path / "loose", layout="diffusers")
    assert verify(file, model).passed

    pipe.fuse_lora(components=["unet"])
    fused = Model(pipe)
    neurons = NeuronFile.of(fused, neurons.neurons, scale=0.5)
    (file,) = export_lora(fused, neurons, tmp_path / "fused", layout="diffusers")
    assert verify(file, fused).passed
    with pytest.raises(ExportError, match=r"fused into its unet.*fuse nothing: Model\.load"):
        bake(fused, neurons, tmp_path / "refused")
    pipe.unfuse_lora(components=["unet"])
    pipe.load_lora_weights(file.parent, adapter_name="edit")
    for strength, output in expected.items():
        pipe.set_adapters(["one", "two", "edit"], [0.1, -0.5, strength])
        assert close(prediction(Model(pipe)), output)


def test_pruned_weights_are_those_with_the_lora(styled: Styled, tmp_path: Path) -> None:
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    edit = PrunedEdit({path: tuple(range(0, 250, 2))})
    file = EditFile.of(styled.model, edit)
    with edit.applied(styled.model, [True]):
        expected = prediction(styled.model)
    folder = bake(styled.model, file, tmp_path / "edited")
    assert close(prediction(Model(plain(folder))), expected)
    assert not close(prediction(styled.model), expected)
    assert verify(folder, styled.model).passed


def test_adapters_without_effect_leave_the_base(styled: Styled, tmp_path: Path) -> None:
    model = styled.loaded(0.0)
    assert model.loras == ()
    neurons = NeuronFile.of(model, styled.neurons.neurons)
    folder = bake(model, neurons, tmp_path / "baked")
    base = Model(plain(styled.base))
    assert verify(folder, base).passed
    file, *_ = export_lora(model, neurons, tmp_path / "lora")
    assert "unmemorize_loras" not in read_header(file).metadata
    assert verify(file, base).passed


def test_fused_and_disabled_adapters_are_not_in_what_is_exported(
    styled: Styled, tmp_path: Path
) -> None:
    from peft import LoraConfig

    pipe = plain(styled.base)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_v"], init_lora_weights=False))
    pipe.fuse_lora(components=["unet"])
    pipe.unet.disable_adapters()
    model = Model(pipe)
    neurons = NeuronFile.of(model, styled.neurons.neurons)
    (file,) = export_lora(model, neurons, tmp_path, layout="diffusers")
    assert verify(file, model).passed
    base = Model(plain(styled.base))
    (expected,) = export_lora(
        base, NeuronFile.of(base, neurons.neurons), tmp_path / "base", layout="diffusers"
    )
    after = load_file(expected)
    assert all(
        torch.allclose(value, after[key], atol=1e-6) for key, value in load_file(file).items()
    )


# What verify finds


def change_byte(file: Path, key: str) -> None:
    """Flip the sign and the exponent of one number."""
    header = read_header(file)
    content = bytearray(file.read_bytes())
    content[header.data_start + header.tensors[key].begin + 7] ^= 0xC1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("component", "layer"),
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"),
        ("unet", "mid_block.resnets.0.conv1.weight"),
        ("unet", "conv_in.weight"),
        ("text_encoder", "encoder.layers.1.self_attn.q_proj.weight"),
        ("text_encoder", "encoder.layers.1.self_attn.v_proj.weight"),
    ],
)
def test_a_changed_byte_of_a_checkpoint(
    component: str, layer: str, styled: Styled, tmp_path: Path
) -> None:
    folder = bake(styled.model, styled.file, tmp_path / "edited")
    (file,) = (folder / component).glob("*.safetensors")
    change_byte(file, layer)
    (change,) = verify(folder, styled.model).unexpected
    assert (change.file, change.key) == (f"{component}/{file.name}", layer)


def test_a_layer_without_its_lora(styled: Styled, tmp_path: Path) -> None:
    folder = bake(styled.model, styled.file, tmp_path / "edited")
    key = "mid_block.resnets.0.conv1.weight"
    (file,) = (folder / "unet").glob("*.safetensors")
    with safe_open(file, "pt") as content:
        metadata = content.metadata()
    base = load_file(Path(styled.base) / "unet" / file.name)
    save_file({**load_file(file), key: base[key]}, file, metadata)
    (change,) = verify(folder, styled.model).unexpected
    assert (change.key, change.rows) == (key, ())


def test_a_changed_byte_and_other_loras_of_a_lora(styled: Styled, tmp_path: Path) -> None:
    file, *_ = export_lora(styled.model, styled.file, tmp_path)
    whole, tensors = file.read_bytes(), load_file(file)
    key = next(
        key
        for key in tensors
        if key.endswith("mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight")
    )
    change_byte(file, key)
    (change,) = verify(file, styled.model).unexpected
    assert change.key in key
    file.write_bytes(whole)
    metadata = dict(read_header(file).metadata)
    (lora,) = json.loads(metadata["unmemorize_loras"])["loras"]
    for other in ({"strengths": [0.5]}, {"sha256": "0" * 64}, {"strengths": [STRENGTH, 1.0]}):
        content = json.dumps({"loras": [{**lora, **other}]})
        save_file(tensors, file, {**metadata, "unmemorize_loras": content})
        (change,) = verify(file, styled.model).unexpected
        assert change.key == "unmemorize_loras"
    metadata.pop("unmemorize_loras")
    save_file(tensors, file, metadata)
    assert not verify(file, styled.model).passed
    save_file(tensors, file, {**metadata, "unmemorize_loras": '{"loras": 3}'})
    with pytest.raises(ExportError, match=r"unmemorize_loras: damaged.*Export it again"):
        verify(file, styled.model)


def test_the_model_with_other_loras_is_another_model(styled: Styled, tmp_path: Path) -> None:
    export_lora(styled.model, styled.neurons, tmp_path / "lora")
    folder = bake(styled.model, styled.neurons, tmp_path / "edited")
    other = save_style(styled.base, tmp_path / "other", seed=1)
    models = [
        Model(plain(styled.base)),
        styled.loaded(0.61),
        Model.load(styled.base, device="cpu", loras={str(other): STRENGTH}),
    ]
    for model in models:
        for artefact in (tmp_path / "lora", folder):
            with pytest.raises(NeuronError, match=r"base with my_style at 0\.6"):
                verify(artefact, model)


# Statements


def test_cards_say_what_belongs_together(styled: Styled) -> None:
    digest = hashlib.sha256(styled.style.read_bytes()).hexdigest()
    for lora, sentence in ((True, "belongs beside these LoRAs"), (False, "part of the copy")):
        card = model_card(styled.model, styled.file, lora=lora)
        assert sentence in card
        assert "# base with my_style at 0.6, with" in card
        assert f"| my_style | {STRENGTH} | `{digest}` |" in card
    base = Model(plain(styled.base))
    card = model_card(base, NeuronFile.of(base, styled.neurons.neurons), lora=True)
    assert "LoRAs" not in card


def test_commands_say_what_is_edited(styled: Styled, cli: Cli, tmp_path: Path) -> None:
    styled.neurons.save(tmp_path / "n.json")
    options = ("--model", styled.base, "--lora", f"{styled.style}={STRENGTH}", "--device", "cpu")
    statement = "The edit is for base with my_style at 0.6. To edit base itself, leave --lora out."
    for kind in ("checkpoint", "lora"):
        code, out, _ = cli("export", kind, tmp_path / "n.json", "-o", tmp_path / kind, *options)
        assert (code, statement in out) == (0, True)
        arguments = f"{styled.base} --lora '{styled.style}={STRENGTH}'"
        assert f"unmemorize verify {tmp_path / kind} {arguments}" in out
        code, out, _ = cli("verify", tmp_path / kind, styled.base, *options[2:])
        place = "holds" if kind == "checkpoint" else "belongs beside"
        assert (code, f"It {place} the LoRA my_style at 0.6 (SHA-256 of its file: " in out) == (
            0,
            True,
        )
    code, _, error = cli("verify", tmp_path / "lora", styled.base, "--device", "cpu")
    assert (code, "base with my_style at 0.6" in error) == (1, True)
    (base,) = (Path(styled.base) / "unet").glob("*.safetensors")
    single = (
        "export",
        "single-file",
        tmp_path / "n.json",
        base,
        "-o",
        tmp_path / "one.safetensors",
    )
    code, _, error = cli(*single, *options)
    assert (code, "Export a checkpoint, which holds base, LoRAs and edit" in error) == (1, True)
    (tmp_path / "prompts.txt").write_text("a prompt\n")
    start = ("mitigate", tmp_path / "prompts.txt", "-o", tmp_path / "run", "--single-file", base)
    code, out, error = cli(*start, *options)
    assert (code, statement in out) == (1, True)
    assert "single files may join" in error
    assert not (tmp_path / "run").exists()


def test_every_form_at_once(styled: Styled, tmp_path: Path) -> None:
    written = export_all(styled.model, styled.file, tmp_path)
    assert list(written.files.values()) == [
        "edited model, with my_style at 0.6 in it",
        *["edit as a LoRA, to load beside my_style at 0.6"] * 2,
    ]
    assert verify(tmp_path / "lora", styled.model).passed
    base = Model.load(styled.base, device="cpu")
    file, folder = EditFile.of(base, styled.edit), tmp_path / "base"
    (single,) = (Path(styled.base) / "unet").glob("*.safetensors")
    one, carried = folder / "edited.safetensors", folder / "edited" / "unmemorize_edit.json"
    times = set()
    for _ in range(2):  # the same call resumes
        written = export_all(base, file, folder, single_file=single)
        assert list(written.files.values())[-1] == "edited model in one file"
        times.add((one.stat().st_mtime_ns, carried.stat().st_mtime_ns))
    assert len(times) == 1
    assert verify(one, base, base_file=single).passed
    off = EditFile.of(base, NeuronEdit(styled.neurons.neurons, 0.0))
    carried.write_text("damaged")
    for changed in (off, file):  # what is there carries another edit
        export_all(base, changed, folder, single_file=single)
        found = carried_edit(one)
        assert isinstance(found, EditFile)
        assert EditFile.load(carried).edit == found.edit == changed.edit
    assert verify(folder / "edited", base).passed
    assert written.refused == ()
    export_all(base, file, folder)
    assert one.exists()
    export_all(base, off, folder)  # which would stay beside an edit that it does not hold
    assert not one.exists()
    export_all(base, file, folder, single_file=single)
    (folder / "edited.safetensors").unlink()
    other = next((Path(styled.base) / "vae").glob("*.safetensors"))
    written = export_all(base, file, folder, single_file=other)
    assert "edited model in one file" not in written.files.values()
    (reason,) = written.refused
    assert reason.startswith("No single file is written")


def test_single_files_hold_no_loras(styled: Styled, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"my_style at 0\.6: single files may join"):
        export_single_file(styled.model, styled.neurons, tmp_path / "b", tmp_path / "o.safetensors")
