"""A program that is compiled ahead is the one that is called, whatever its arguments are."""

import itertools
import threading
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import monitoring

from fnbackprop.experiment import Experiment
from fnbackprop.training.compiling import CompiledAhead
from fnbackprop.training.loop import train

AHEAD = {True: "compile ahead", False: "MainThread"}
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """How often each program was compiled, by its name, and in which threads."""
    found = Counter()

    def listen(event, seconds, **facts):
        if event == COMPILED:
            found[facts["fun_name"], threading.current_thread().name] += 1

    monitoring.register_event_duration_secs_listener(listen)
    yield found
    monitoring.unregister_event_duration_listener(listen)


def test_it_is_compiled_by_a_thread_and_only_once(compilations):
    def halve(x):
        return x / 2

    function = CompiledAhead(jax.jit(halve))
    function.begin(np.float32(8))
    assert [float(function(np.float32(x))) for x in (6, 4)] == [3, 2]
    assert [at for at in compilations if "halve" in at[0]] == [(only(compilations, "halve"), "compile ahead")]


def only(compilations, name):
    """The one program whose name has this, which was compiled once."""
    [(program, count)] = [(program, count) for (program, _), count in compilations.items() if name in program]
    assert count == 1
    return program


def test_what_goes_wrong_goes_wrong_where_it_is_called():
    def broken(x):
        raise KeyError(x.shape)

    function = CompiledAhead(jax.jit(broken))
    function.begin(jnp.ones(3))
    with pytest.raises(KeyError):
        function(jnp.ones(3))
    plain = CompiledAhead(lambda x: x + 1)
    plain.begin(1)
    assert plain(2) == 3


BATCHES = {
    "numpy": lambda step: np.full(3, step, np.float32),
    "wide": lambda step: {"x": np.full(3, step, np.float64), "n": np.arange(3)},
    "jax": lambda step: jnp.full(3, step, jnp.float32),
    "on a device": lambda step: jax.device_put(np.full(3, step, np.float32), jax.devices()[0]),
    "mixed": lambda step: {"x": np.full(3, step), "y": jnp.ones(2)},
    "numbers": lambda step: {"x": 2.0, "n": 3, "z": np.float64(step), "t": True},
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("options", [{}, {"ema": 0.5, "skip_nonfinite": 2}, {"precision": "float16", "skip_spikes": 2}])
def test_a_run_compiles_its_step_and_its_evaluation_once(tmp_path, compilations, kind, options):
    def loss(params, batch, key):
        total = jnp.sum(params["w"])
        return sum(total * jnp.mean(x).astype(total.dtype) for x in jax.tree.leaves(batch))

    @jax.jit
    def evaluate_it(params, context):
        return {"size": jnp.sum(params["w"]) + context.step}

    made = Experiment(
        name="ahead", init=lambda key: {"w": jnp.ones(3), "b": 0.5}, loss=loss, batch=BATCHES[kind],
        evaluate=evaluate_it, evaluate_every=2, optimizer=optax.adam(0.1), steps=5, **options,
    )  # fmt: skip
    train(made, directory=tmp_path, progress=False)
    assert (only(compilations, "evaluate_it"), AHEAD[kind != "on a device"]) in compilations
    if kind != "on a device":  # where that of the first step moves the state to
        assert (only(compilations, "jit(step)"), "compile ahead") in compilations


def called_in_order(init, **options):
    """What a run of two steps calls: "init" or "init with numbers", "loss"; and the state after it."""
    calls = []

    def noted(key):
        calls.append("init" if isinstance(key, jax.core.Tracer) else "init with numbers")
        return init(key)

    def loss(params, batch, key):
        calls.append("loss")
        return jnp.sum((params["w"] - batch) ** 2)

    made = Experiment(
        name="ahead", init=noted, loss=loss, batch=BATCHES["numpy"], optimizer=optax.adam(0.1), steps=2, seed=7
    )
    return calls, train(made, directory=None, progress=False, **options)


def test_the_step_is_compiled_while_init_computes(compilations):
    calls, state = called_in_order(lambda key: {"w": jax.random.normal(key, (3,)) * 1e-3})
    assert calls == ["init", "loss", "init with numbers"]
    assert (only(compilations, "jit(step)"), "compile ahead") in compilations and state.step == 2


NUMBERS = itertools.count()


def needs_numbers(key):
    return {"w": jnp.full(3, float(jax.random.uniform(key)))}


def of_another_structure_each_time(key):
    return {"w": jnp.ones(3), f"other{next(NUMBERS)}": jnp.ones(2)}


@pytest.mark.parametrize(
    "init, calls",
    [
        (needs_numbers, ["init", "init with numbers", "loss"]),
        (of_another_structure_each_time, ["init", "loss", "init with numbers", "loss"]),
    ],
)
def test_an_init_whose_shapes_cannot_be_found_ahead(init, calls):
    found, state = called_in_order(init)
    assert found == calls and state.step == 2


def test_a_run_that_goes_on_compiles_each_once(tmp_path, compilations):
    def made():
        return Experiment(
            name="ahead", init=lambda key: jnp.ones(3), loss=lambda w, batch, key: jnp.sum((w - batch) ** 2),
            batch=BATCHES["numpy"], evaluate=jax.jit(lambda params: {"size": jnp.sum(params)}), steps=5,
            optimizer=optax.adam(0.1),
        )  # fmt: skip

    state = train(made(), directory=tmp_path, progress=False, steps=3)
    for options in ({"state": state, "directory": None}, {"directory": tmp_path, "resume": True}):
        compilations.clear()
        train(made(), progress=False, **options)
        only(compilations, "jit(step)"), only(compilations, "lambda")
