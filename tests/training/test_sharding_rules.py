"""What lies where on a mesh of 8 simulated devices; a step there is the step of one device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from fnbackprop import losses, trees
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.models import transformer
from fnbackprop.training.loop import train
from fnbackprop.training.mesh import make_mesh
from fnbackprop.training.record.metrics import read_metrics
from fnbackprop.training.sharding_rules import make_layout
from fnbackprop.training.step.optimizers import Optimizer
from fnbackprop.training.step.state import initial_state
from fnbackprop.training.step.weight_update import compiled, make_update
from tests.training.compiling import times_compiled


def gpt(**changes) -> Experiment:
    def init(key):
        return transformer.init(key, vocabulary=16, length=6, width=8, layers=2, scan_layers=True)

    def loss(params, tokens, key):
        logits = transformer.apply(params, tokens[:, :-1], heads=2)
        return losses.softmax_cross_entropy(logits, tokens[:, 1:])

    def batch(step):
        return np.random.default_rng(step).integers(0, 16, (16, 7)).astype(np.int32)

    parts = {"name": "gpt", "init": init, "loss": loss, "batch": batch, "steps": 3}
    return Experiment(**(parts | {"optimizer": Optimizer(weight_decay=0.1).build(3)} | changes))


def specs_of(experiment, mesh) -> dict:
    layout = make_layout(experiment, make_mesh(mesh))
    return {path: leaf.spec for path, leaf in trees.leaves_with_paths(layout.state)}


def test_presets_of_the_transformer():
    tensor = specs_of(gpt(sharding="tensor", ema=0.9), "data=4,model=2")
    for where in ("params/", "opt_state/1/mu/", "opt_state/1/nu/", "ema/"):  # the optimizer's state follows
        assert tensor[f"{where}blocks/qkv/w"] == P(None, None, "model")
        assert tensor[f"{where}blocks/up/b"] == P(None, "model")
        assert tensor[f"{where}blocks/down/w"] == P(None, "model", None)
        assert tensor[f"{where}token/w"] == P("model", None)
        assert set(tensor[f"{where}blocks/down/b"]) <= {None} and set(tensor[f"{where}norm/scale"]) <= {None}
    assert tensor["step"] == tensor["key"] == tensor["opt_state/1/count"] == P()

    fsdp = specs_of(gpt(sharding="fsdp"), "data=4")
    assert fsdp["params/blocks/qkv/w"] == P(None, None, "data") == fsdp["opt_state/1/nu/blocks/qkv/w"]
    assert fsdp["params/token/w"] == P("data", None) and fsdp["params/position/w"] == P(None, "data")
    assert set(specs_of(gpt(sharding="data"), "data=8").values()) == {P()}

    both = specs_of(gpt(sharding="fsdp+tensor"), "data=4,model=2")
    assert both["params/blocks/qkv/w"] == P(None, "data", "model") and both["params/token/w"] == P("model", "data")
    assert both["params/norm/scale"] == P("data") and both["params/blocks/up/b"] == P(None, "model")


def test_what_has_another_shape_than_its_parameter_is_on_every_device():
    """Adafactor keeps a row and a column in place of a matrix: `v_row/blocks/qkv/w` is no place for that one's spec."""
    adafactor = optax.adafactor(0.1, min_dim_size_to_factor=8, momentum=0.9)
    experiment = gpt(sharding="tensor", optimizer=adafactor)
    layout = make_layout(experiment, make_mesh("model=2"))
    state = initial_state(experiment, layout)  # which a spec of too many axes would not let pass
    found = {path: leaf.sharding.spec for path, leaf in trees.leaves_with_paths(state.opt_state)}
    kept = {path.removesuffix("/blocks/qkv/w"): spec for path, spec in found.items() if path.endswith("/blocks/qkv/w")}
    factors = {path: spec for path, spec in kept.items() if "/v" in path}
    assert len(factors) == 3 and set(factors.values()) == {P()}
    assert [spec for path, spec in kept.items() if path not in factors] == [P(None, None, "model")]  # the momentum


def test_a_mapping_and_a_function_are_rules_too():
    patterns = {"blocks/*/w": P(None, "model"), "w": P("data")}
    found = specs_of(gpt(sharding=patterns), "data=2,model=2")
    assert found["params/blocks/up/w"] == P(None, "model") and found["params/token/w"] == P("data")
    assert found["params/norm/bias"] == P()
    assert specs_of(gpt(sharding="replicate"), "whatever=8")["params/token/w"] == P()

    def rule(path, shape, mesh):
        return P(("data", "model")) if path == "token/w" and mesh.size == 4 else P()

    assert specs_of(gpt(sharding=rule), "data=2,model=2")["opt_state/1/mu/token/w"] == P(("data", "model"))


@pytest.mark.parametrize(
    "sharding, mesh, message",
    [
        ("zero3", "data=8", "one of replicate, data, fsdp, tensor, fsdp.tensor, a dict .* not 'zero3'"),
        ("fsdp", "model=8", "'fsdp' needs a mesh axis 'data', but the mesh has model=8"),
        ("tensor", "data=8", "'tensor' needs a mesh axis 'model'"),
        ("tensor", "model=3", r"blocks/down/w \[2, 32, 8\]: .* axis 1 of 32 cannot be split evenly over 3 devices"),
        ({"qkv/w": P("rows")}, "data=8", r"blocks/qkv/w .* names an axis 'rows', but the mesh has data=8"),
        ({"norm/scale": P(None, "data")}, "data=8", r"norm/scale \[8\]: .* is for 2 axes, but it has 1"),
        ("data", "date=8", "nothing is split over date=8 of the mesh date=8 by sharding 'data'"),
        ({"qvk/w": P()}, "data=8", "no parameter matches 'qvk/w'; they are blocks/down/b, .*, token/w"),
        ({"norm/scale": "data"}, "data=8", "must be a jax.sharding.PartitionSpec"),
    ],
)
def test_errors(sharding, mesh, message):
    with pytest.raises(ExperimentError, match=message):
        specs_of(gpt(sharding=sharding), mesh)


def test_a_batch_that_cannot_be_split():
    layout = make_layout(gpt(), make_mesh("data=8"))
    with pytest.raises(ExperimentError, match="batch's x/0 has 6 examples, .* evenly over data=8 of the mesh data=8"):
        layout.place({"x": [np.zeros((6, 2))]})
    with pytest.raises(ExperimentError, match="array has 24 examples, .* evenly in 2 microbatches over data=8"):
        make_layout(gpt(accumulate=2), make_mesh("data=8")).place(np.zeros(24))
    placed = layout.place({"x": np.arange(16), "scale": 0.5})
    assert placed["x"].sharding.spec == P("data") and placed["scale"].sharding.spec == P()
    np.testing.assert_array_equal(placed["x"], np.arange(16))


def three_steps(experiment, layout=None):
    """How far parameters and averages have moved, and the gradient's norms; the state must stay where it was."""
    update = compiled(make_update(experiment, "manual", layout), layout)
    state, norms, before = initial_state(experiment, layout), [], times_compiled("update")
    start = jax.device_get(state.params)
    for step in range(3):
        batch = experiment.batch(step)
        state, metrics = update(state, batch if layout is None else layout.place(batch))
        norms.append(float(metrics["gradient_norm"]))
        if layout is not None:
            jax.tree.map(lambda leaf, where: chex.assert_equal(leaf.sharding, where), state, layout.state)
    assert times_compiled("update") == before + 1
    end = jax.device_get((state.params, state.averaged))
    return jax.tree.map(np.subtract, end, (start, start)), norms


@pytest.fixture(scope="module")
def on_one_device():
    found = {}

    def run(options):
        key = str(options)
        if key not in found:
            found[key] = three_steps(gpt(**options))
        return found[key]

    return run


SEVERAL = {"accumulate": 2, "ema": 0.5, "optimizer": optax.sgd(0.5, momentum=0.9)}
LOW = {"precision": "bfloat16", "optimizer": optax.sgd(0.5)}


@pytest.mark.parametrize(
    "sharding, mesh, options, rounding",
    [
        ("data", "data=8", SEVERAL, 1e-4),
        ("fsdp", "data=4", SEVERAL, 1e-4),
        ("fsdp+tensor", "data=4,model=2", SEVERAL, 1e-4),
        ("tensor", "data=2,model=2", LOW, 3e-2),
    ],
)
def test_three_steps_are_those_of_one_device(on_one_device, sharding, mesh, options, rounding):
    experiment = gpt(sharding=sharding, **options)
    moved, norms = three_steps(experiment, make_layout(experiment, make_mesh(mesh)))
    expected, expected_norms = on_one_device(options)
    np.testing.assert_allclose(norms, expected_norms, rtol=rounding)
    for (path, found), wanted in zip(trees.leaves_with_paths(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=rounding * np.max(np.abs(wanted)), rtol=0, err_msg=path)


def test_a_run_goes_on_on_another_mesh(tmp_path):
    def batch(step):
        return np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)

    parts = {
        "init": lambda key: {"w": jax.random.normal(key, (4, 8))},
        "loss": lambda params, batch, key: jnp.mean(jnp.tanh(batch @ params["w"]) ** 2),
        "batch": batch,
        "optimizer": optax.adam(0.1),
        "steps": 4,
        "sharding": "fsdp",
    }
    options = {"directory": tmp_path, "checkpoint_every": 2, "progress": False}
    whole = train(gpt(**parts, name="whole"), mesh="data=8", **options)
    train(gpt(**parts, name="parts"), mesh="data=4", steps=2, **options)
    rest = train(gpt(**parts, name="parts"), mesh="data=2", resume=True, **options)
    assert rest.step == 4 and len(rest.params["w"].sharding.device_set) == 2
    np.testing.assert_allclose(rest.params["w"], whole.params["w"], rtol=1e-5)
    assert len(read_metrics(tmp_path / "parts")) == 4
