"""An `evaluate` that takes a context is given the step, the state and the run's folder; another is called as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training.loop import train
from fnbackprop.training.run_folder import read_metrics
from fnbackprop.training.step.state import initial_state
from fnbackprop.training.trial import try_evaluation
from tests.training.step.test_model_state import normalised
from tests.training.test_loop import regression


def test_what_the_context_holds(tmp_path):
    def evaluate(params, context):
        (context.folder / f"weights-{context.step}.txt").write_text(str(np.sum(params["w"])))
        apart = np.abs(params["w"] - context.state.params["w"]).max()
        return {"apart": apart, "updates": int(context.state.step) - context.step}

    made = regression(evaluate=evaluate, evaluate_every=2, steps=4, ema=0.5)
    state = train(made, directory=tmp_path, progress=False, checkpoint_every=0)
    folder = tmp_path / "regression"
    assert {file.name for file in folder.glob("weights-*")} == {f"weights-{step}.txt" for step in (0, 2, 4)}  # 0: trial
    assert (folder / "weights-4.txt").read_text() == str(np.sum(state.averaged["w"]))
    rows = [row for row in read_metrics(folder) if "evaluate/apart" in row]
    assert [row["evaluate/updates"] for row in rows] == [0, 0] and all(row["evaluate/apart"] > 0 for row in rows)


def test_a_trial_computes_nothing_of_the_contexts_state():
    def evaluate(params, context):
        assert isinstance(context.step, int) and isinstance(context.state.params["w"], jax.core.Tracer)
        return {"size": jnp.sum(context.state.params["w"])}

    made = regression(evaluate=evaluate)
    try_evaluation(made, initial_state(made))


def test_a_compiled_evaluation_with_a_model_state():
    seen = []

    @jax.jit
    def evaluate(params, model_state, context):
        equal = jnp.all(model_state["norm"]["mean"] == context.state.model_state["norm"]["mean"])
        jax.debug.callback(lambda step, equal: seen.append((int(step), bool(equal))), context.step, equal)
        return {"step": context.step}

    train(normalised(evaluate=evaluate), directory=None, progress=False, steps=2)
    assert seen == [(2, True)]


def test_a_context_alone_is_refused_where_there_is_a_model_state():
    with pytest.raises(ExperimentError, match=r"called as evaluate\(params, model_state, context\)"):
        normalised(evaluate=lambda params, context: {})
