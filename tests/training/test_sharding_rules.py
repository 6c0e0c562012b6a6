"""How the presets, patterns and functions split parameters."""

import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from fnbackprop import losses, trees
from fnbackprop.experiment import Experiment, ExperimentError
from fnbackprop.experiment_checks import SHARDINGS
from fnbackprop.models import transformer
from fnbackprop.training.layout import Layout, make_layout
from fnbackprop.training.mesh import make_mesh
from fnbackprop.training.sharding_rules import PRESETS
from fnbackprop.training.step.optimizers import Optimizer
from fnbackprop.training.step.state import abstract_state


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


def layout_on(experiment, mesh) -> Layout:
    return make_layout(experiment, make_mesh(mesh), abstract_state(experiment))


def specs_of(experiment, mesh) -> dict:
    layout = layout_on(experiment, mesh)
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


def test_an_experiment_knows_the_presets():
    assert tuple(PRESETS) == SHARDINGS
