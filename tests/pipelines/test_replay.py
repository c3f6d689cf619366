"""Plans, recordings and replayed passes, on small modules and on a model."""

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from conftest import make_pipeline
from unmemorize import Model, ModelError
from unmemorize.pipelines import Recording, ReplayPlan, recording, replaying
from unmemorize.pipelines._replay import make_plan


class Pair(nn.Module):
    def forward(self, value: Tensor) -> tuple[Tensor, tuple[Tensor, None]]:
        return value + 1, (value * 2, None)


class Odd(nn.Module):
    def forward(self, value: Tensor) -> dict[str, Tensor]:
        return {"x": value}


class Shared(nn.Module):
    """One row for all samples, like a table of positions."""

    def forward(self, value: Tensor) -> Tensor:
        return value[:1] * 0 + 1


class Parts(nn.Module):
    """Modules that return what the blocks of diffusers return, and some that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair, self.odd = nn.Linear(2, 2), Pair(), Odd()
        self.shared, self.twice, self.last = Shared(), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, value: Tensor) -> Tensor:
        left, (right, _) = self.pair(self.first(value))
        middle = self.twice(self.twice(left + right + self.odd(value)["x"]))
        output: Tensor = self.last(middle + self.shared(value))
        return output


SAMPLES = torch.randn((3, 2), generator=torch.Generator().manual_seed(0))


def plan_of(parts: nn.Module, layers: Sequence[str] = ("last",)) -> ReplayPlan:
    def predict(rows: Sequence[int]) -> Tensor:
        output: Tensor = parts(SAMPLES[list(rows)])[:, None]
        return output

    return make_plan(parts, layers, predict, len(SAMPLES))


def test_only_outputs_by_sample_of_modules_that_run_once_are_replayed() -> None:
    parts = Parts()
    plan = plan_of(parts)
    assert plan.before["last"] == plan.recorded == ("first", "pair")
    assert plan.exact
    with recording(parts, plan.recorded) as outputs:
        expected = parts(SAMPLES)
    parts.first.weight.data.zero_()
    with replaying(parts, outputs):
        assert torch.equal(parts(SAMPLES), expected)


def test_what_is_recorded_is_what_runs_before_the_layer() -> None:
    plan = plan_of(Parts(), ["first", "pair", "twice"])
    assert plan.before == {"first": (), "pair": ("first",), "twice": ("first", "pair")}


def test_a_layer_that_does_not_run_is_named() -> None:
    parts = Parts()
    parts.idle = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"idle: is not called.*unfuse_qkv_projections"):
        plan_of(parts, ["idle"])


def test_plans_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        plan_of(Parts()).exact = False  # type: ignore[misc]


class Counting(Parts):
    """Adds the number of its passes: the same input gives another output each time."""

    calls = 0

    def forward(self, value: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(value) + self.calls


class Mixing(Parts):
    """The output of a sample depends on its neighbours in the batch, far beyond rounding."""

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value) + value.cumsum(0)


@pytest.mark.parametrize("kind", [Counting, Mixing])
def test_a_denoiser_that_cannot_be_replayed_is_noticed(kind: type[Parts]) -> None:
    plan = plan_of(kind())
    assert not plan.exact
    assert plan.recordings(samples=1) == 0


def test_a_change_below_rounding_is_noticed_in_the_same_batch() -> None:
    """A hook that is applied twice to what is replayed for the last layer only."""
    parts = Parts()
    parts.pair.register_forward_hook(lambda _, _inputs, output: (output[0] * 1.0001, output[1]))
    assert not plan_of(parts, ["first", "last"]).exact


def test_sizes_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(Parts())
    assert plan.bytes_per_sample == 3 * 2 * 4  # three float32 tensors of two features
    for largest, most in ((10**9, 2), (24 * 20, 2), (24 * 20 - 1, 1), (24 * 10, 1), (239, 0)):
        monkeypatch.setattr("unmemorize.pipelines._replay.LARGEST", largest)
        assert plan.recordings(samples=10) == most


def test_nothing_to_record_always_fits() -> None:
    plan = plan_of(Parts(), ["first"])
    assert (plan.bytes_per_sample, plan.recordings(samples=10)) == (0, 2)


def test_recordings_are_taken_apart_and_joined_by_seed() -> None:
    """Conditional and unconditional halves: two rows for each seed."""
    rows = torch.arange(6.0)[:, None]  # seeds 7, 3, 5, then again

    def recorded(seeds: Sequence[int], positions: list[int]) -> Recording:
        return Recording(tuple(seeds), {"a": rows[positions], "b": (rows[positions], None)})

    whole = recorded([7, 3, 5], [0, 1, 2, 3, 4, 5])
    some = whole.of_seeds([5, 7], ["a", "b"])
    assert some["a"].flatten().tolist() == [2, 0, 5, 3]
    assert some["b"][0].flatten().tolist() == [2, 0, 5, 3]
    assert some["b"][1] is None
    joined = Recording.join([recorded([5], [2, 5]), recorded([7, 3], [0, 1, 3, 4])])
    assert joined.seeds == (5, 7, 3)
    assert joined.outputs["a"].flatten().tolist() == [2, 0, 1, 5, 3, 4]
    assert joined.of_seeds([7, 3, 5], ["a"])["a"].equal(rows)
    assert Recording.join([whole]) is whole


def test_a_tensor_that_two_modules_return_counts_once() -> None:
    tensor = torch.zeros(4, 2)
    assert Recording((0,), {"a": tensor, "b": [tensor, None], "c": torch.zeros(1)}).bytes == 36


@pytest.mark.parametrize("own", [False, True])
def test_forwards_are_put_back_after_an_exception(own: bool) -> None:
    parts = Parts()
    if own:  # as accelerate replaces the forward of an instance
        original: Callable[..., Any] = parts.first.forward
        parts.first.forward = lambda value: original(value) * 3  # type: ignore[method-assign, assignment]
    before = parts(torch.ones(3, 2))
    saved = dict(vars(parts.first))

    def interrupted() -> None:
        with replaying(parts, {"first": torch.zeros(3, 2)}):
            assert torch.equal(parts.first(torch.ones(3, 2)), torch.zeros(3, 2))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert vars(parts.first) == saved
    assert torch.equal(parts(torch.ones(3, 2)), before)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(make_pipeline())


def test_a_plan_is_made_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = list(model.value_layers)
    plan = model.replay_plan(layers, samples=10)
    monkeypatch.setattr(model, "predict", lambda *_: pytest.fail("the plan is made once"))
    assert model.replay_plan(layers, samples=10) is plan


def test_later_layers_cost_less(model: Model) -> None:
    layers = list(model.value_layers)
    plan = model.replay_plan(layers, samples=10)
    costs = [plan.cost(layer) for layer in layers]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] < plan.cost(None) == 1.0
    assert costs[-1] < 0.5
    blocks = [name for name in plan.shares if name.count(".") == 1 and name[:2] in ("do", "up")]
    assert 0.5 < sum(plan.shares[name] for name in blocks) <= 1.0


def test_replaying_a_model_is_exact(model: Model) -> None:
    layers = list(model.value_layers)
    plan = model.replay_plan(layers, samples=10)
    latents, text = model.draw_latents(3, 5), model.encode(["one", "two", "three"])
    timestep = torch.tensor(400)
    with recording(model.denoiser, plan.recorded) as outputs:
        expected = model.predict(latents, timestep, text)
    recorded = Recording((0, 1, 2), outputs)
    assert recorded.bytes == 3 * plan.bytes_per_sample
    for layer in layers:
        with replaying(model.denoiser, recorded.of_seeds((0, 1, 2), plan.before[layer])):
            assert torch.equal(model.predict(latents, timestep, text), expected)
    rows = [2, 0]
    with replaying(model.denoiser, recorded.of_seeds(rows, plan.before[layers[-1]])):
        swapped = model.predict(latents[rows], timestep, text.take(rows))
    torch.testing.assert_close(swapped, expected[rows], rtol=0, atol=1e-5)


def test_a_hook_on_the_denoiser_makes_another_plan(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """The hook would be applied twice: when the output is recorded, and when it is replayed."""
    model = Model(pipe)
    layers = list(model.value_layers)
    plan = model.replay_plan(layers, samples=10)
    assert plan.exact
    assert not caplog.text
    handle = pipe.unet.conv_in.register_forward_hook(lambda _module, _inputs, output: output * 1.01)
    assert not model.replay_plan(layers, samples=10).exact
    assert "does not give the same output, so the denoiser always runs whole" in caplog.text
    handle.remove()
    assert model.replay_plan(layers, samples=10) is plan


def test_recordings_that_do_not_fit_are_said(
    pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(pipe)
    monkeypatch.setattr("unmemorize.pipelines._replay.LARGEST", 1000)
    plan = model.replay_plan(list(model.value_layers), samples=10)
    assert plan.exact
    assert plan.recordings(samples=10) == 0
    assert "GiB of recorded outputs are too many, so the denoiser always runs whole" in caplog.text


def test_making_a_plan_leaves_nothing_in_the_model(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    model.replay_plan(list(model.value_layers), samples=2)
    for module in pipe.unet.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
