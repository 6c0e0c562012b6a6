"""The optax chain against updates written out in numpy."""

import jax
import numpy as np
import pytest

from fnbackprop import trees
from fnbackprop.experiment import ExperimentError
from fnbackprop.models import transformer
from fnbackprop.training.step.optimizers import NO_DECAY, Optimizer, decay_mask

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(3, 2)).astype(np.float32), "b": RNG.normal(size=2).astype(np.float32)}
GRADIENTS = [{k: 3 * RNG.normal(size=v.shape).astype(np.float32) for k, v in PARAMS.items()} for _ in range(4)]


def by_optax(options: Optimizer, steps: int = 4):
    transformation, params = options.build(steps), PARAMS
    with jax.numpy_dtype_promotion("standard"):
        state = transformation.init(params)
        for gradient in GRADIENTS:
            updates, state = transformation.update(gradient, state, params)
            params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
    return params


def clipped(gradient, limit):
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradient.values()))
    return {k: g * min(1.0, limit / norm) for k, g in gradient.items()}


def test_adamw_with_clipping_decay_and_schedule():
    # A beta 2 of 0.999 would make 1 - beta 2 a float32 of four digits.
    options = Optimizer(
        learning_rate=0.1, warmup=2, weight_decay=0.3, clip=0.5, schedule="linear", end=0.5, second_momentum=0.9
    )
    params = {k: v.astype(np.float64) for k, v in PARAMS.items()}
    one, two = ({k: np.zeros_like(v) for k, v in params.items()} for _ in range(2))
    for step, (gradient, rate) in enumerate(zip(GRADIENTS, (0.05, 0.1, 0.1, 0.075), strict=True), start=1):
        for k, g in clipped(gradient, 0.5).items():
            one[k], two[k] = 0.9 * one[k] + 0.1 * g, 0.9 * two[k] + 0.1 * g**2
            update = one[k] / (1 - 0.9**step) / (np.sqrt(two[k] / (1 - 0.9**step)) + 1e-8)
            params[k] = params[k] - rate * (update + (0.3 * params[k] if k == "w" else 0))
    found = by_optax(options)
    for k in params:
        np.testing.assert_allclose(found[k], params[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd(momentum):
    expected, average = dict(PARAMS), dict.fromkeys(PARAMS, 0.0)
    for gradient in GRADIENTS:
        average = {k: momentum * average[k] + g for k, g in gradient.items()}
        expected = {k: expected[k] - 0.1 * average[k] for k in expected}
    found = by_optax(Optimizer("sgd", learning_rate=0.1, schedule="constant", clip=None, momentum=momentum))
    for k in expected:
        np.testing.assert_allclose(found[k], expected[k], rtol=1e-5)


def test_lion():
    expected, average = dict(PARAMS), dict.fromkeys(PARAMS, 0.0)
    for gradient in GRADIENTS:
        expected = {k: expected[k] - 0.1 * np.sign(0.9 * average[k] + 0.1 * g) for k, g in gradient.items()}
        average = {k: 0.999 * average[k] + 0.001 * g for k, g in gradient.items()}
    found = by_optax(Optimizer("lion", learning_rate=0.1, schedule="constant", clip=None))
    for k in expected:
        np.testing.assert_allclose(found[k], expected[k], rtol=1e-5)


def test_adafactor_moves_every_parameter_by_about_the_rate():
    found = by_optax(Optimizer("adafactor", learning_rate=0.01, schedule="constant"))
    for k in PARAMS:
        moved = np.abs(found[k] - PARAMS[k])
        assert np.all(moved > 0) and np.sqrt(np.mean(moved**2)) < 4 * 0.01


def test_schedules():
    def rates(**options):
        rate = Optimizer(learning_rate=2.0, **options).rate(12)
        return [float(rate(step)) for step in (0, 1, 2, 3, 7, 12)]

    np.testing.assert_allclose(rates(schedule="constant"), [2.0] * 6)
    falling = [2.0 * (0.1 + 0.9 * (1 + np.cos(np.pi * t / 10)) / 2) for t in (0, 1, 5, 10)]
    np.testing.assert_allclose(rates(warmup=2, end=0.1), [1.0, 2.0, *falling], rtol=1e-6)
    np.testing.assert_allclose(rates(schedule="linear"), [2 * (1 - t / 12) for t in (0, 1, 2, 3, 7, 12)], atol=1e-6)
    np.testing.assert_allclose(rates(schedule="constant", warmup=1), [2.0] * 6)


def test_biases_and_norms_of_the_transformer_do_not_decay():
    for scan_layers in (False, True):  # stacked biases are matrices: only their names tell
        sizes = {"vocabulary": 8, "length": 4, "width": 4, "layers": 2, "scan_layers": scan_layers}
        mask = decay_mask(Optimizer().no_decay)(transformer.init(jax.random.key(0), **sizes))
        block = mask["blocks"] if scan_layers else mask["blocks"][1]
        assert block["qkv"] == {"w": True, "b": False} and block["norm2"] == {"scale": False, "bias": False}
        assert mask["token"] == {"w": True} and mask["norm"] == {"scale": False, "bias": False}


def test_biases_and_norms_of_other_libraries_do_not_decay():
    """In the boxes of NNX and of linen's partitioning, in Equinox and in Haiku."""
    nnx, nn = pytest.importorskip("flax.nnx"), pytest.importorskip("flax.linen")
    equinox = pytest.importorskip("equinox")

    class Net(nnx.Module):
        def __init__(self):
            self.linear, self.norm = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.LayerNorm(3, rngs=nnx.Rngs(0))

    class Layer(equinox.Module):
        linear: equinox.nn.Linear
        ln: equinox.nn.LayerNorm

        def __init__(self, key):
            self.linear, self.ln = equinox.nn.Linear(2, 3, key=key), equinox.nn.LayerNorm(3)

    boxed = nn.Dense(
        3,
        kernel_init=nn.with_partitioning(nn.initializers.ones, (None, "model")),
        bias_init=nn.with_partitioning(nn.initializers.zeros, ("model",)),
    )
    key = jax.random.key(0)
    for params, decaying in (
        (nnx.state(Net()), ["linear/kernel/value"]),
        (boxed.init(key, np.ones((1, 2), np.float32)), ["params/kernel/value"]),
        (equinox.filter(Layer(key), equinox.is_array), ["linear/weight"]),
        ({"norm1": {"weight": np.ones((2, 3))}, "layer_norm": {"scale": np.ones(3), "offset": np.ones(3)}}, []),
        ({"w": np.ones(3)}, ["w"]),  # of one axis, but no norm's
    ):
        mask = decay_mask(Optimizer().no_decay)(params)
        assert [path for path, decays in trees.leaves_with_paths(mask) if decays] == decaying


def test_a_pattern_without_a_parameter_is_named():
    for no_decay in (("biases",), (*NO_DECAY, "biases")):
        with pytest.raises(ExperimentError, match="no_decay: no parameter matches 'biases'; they are b, w"):
            Optimizer(weight_decay=0.1, no_decay=no_decay).build(4).init(PARAMS)
    Optimizer(weight_decay=0.1, no_decay=(*NO_DECAY, "w")).build(4).init(PARAMS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"clip": -1.0}, "clip must be above 0, or None"),
        ({"end": 2.0}, "end must be between 0 and 1"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"warmup": -1}, "warmup must be at least 0"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ExperimentError, match=message):
        Optimizer(**changes)


def test_a_warmup_longer_than_the_run():
    with pytest.raises(ExperimentError, match="warmup must be at most the run's 10 steps, not 11"):
        Optimizer(warmup=11).build(10)


def test_it_is_an_option_of_the_command_line():
    import tyro

    found = tyro.cli(Optimizer, args=["--learning-rate", "0.5", "--clip", "None", "--no-decay", "w", "pos*/w"])
    assert found == Optimizer(learning_rate=0.5, clip=None, no_decay=("w", "pos*/w"))
