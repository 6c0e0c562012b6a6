"""Parameters go from a run or a file into the same or another model; what does not fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnbackprop as fb
from fnbackprop.training.errors import CheckpointError, RunError
from fnbackprop.training.loop import train
from fnbackprop.training.parameters import load_parameters, save_parameters
from fnbackprop.training.step.state import initial_state
from tests.training.step.test_model_state import normalised

TREE = {"body": {"w": jnp.arange(6.0).reshape(2, 3)}, "head": {"w": jnp.ones((3, 1)), "b": jnp.zeros(1)}}
OTHER = {"trunk": {"w": jnp.zeros((2, 3), jnp.bfloat16)}, "head": {"w": jnp.full((3, 4), 7.0), "b": jnp.full(4, 7.0)}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment, the last state and the folder of a run with a model state and averages of everything."""
    experiment, directory = normalised(ema=0.5, ema_of_state=True, steps=2), tmp_path_factory.mktemp("runs")
    return experiment, train(experiment, directory=directory, progress=False), directory / "normalised"


def test_the_parameters_of_a_run(run):
    experiment, state, folder = run
    like = jax.tree.map(jnp.zeros_like, state.params)
    for source in (folder, folder / "checkpoints/step_00000002"):
        found = load_parameters(source, like=like)
        jax.tree.map(np.testing.assert_array_equal, found, state.averaged)
    jax.tree.map(np.testing.assert_array_equal, load_parameters(folder, like=like, averaged=False), state.params)
    norm = load_parameters(folder, like={"norm": state.model_state["norm"]}, part="model_state", partial="calls")
    jax.tree.map(np.testing.assert_array_equal, norm["norm"], state.averaged_model_state["norm"])


def test_the_model_file_of_a_run(run):
    _, state, folder = run
    file = folder / "model.safetensors"
    jax.tree.map(np.testing.assert_array_equal, load_parameters(file, like=state.params), state.averaged)
    norm = {"norm": state.model_state["norm"]}
    found = load_parameters(file, like=norm, part="model_state", partial="calls")
    jax.tree.map(np.testing.assert_array_equal, found["norm"], state.averaged_model_state["norm"])
    both = {"params": state.params, "model_state": norm}
    again = load_parameters(save_parameters(both, folder / "both.npz"), like=both)
    jax.tree.map(np.testing.assert_array_equal, again, both)
    with pytest.raises(CheckpointError, match="plain.npz has no model_state"):
        load_parameters(save_parameters(norm, folder / "plain.npz"), like=norm, part="model_state")


def test_random_keys_stay(tmp_path):
    key = jax.random.key(3)
    file = save_parameters({"w": jnp.ones(2)}, tmp_path / "model.npz")
    found = load_parameters(file, like={"w": jnp.zeros(2), "dropout": key})
    assert found["w"][0] == 1 and found["dropout"] is key


def test_a_run_begins_from_the_parameters_of_another(run, capsys):
    experiment, state, folder = run

    def init(key):
        params, model_state = experiment.init(key)
        new = {**params, "head": jnp.full(3, 2.0)}
        return fb.load_parameters(folder, like=new, partial="head"), model_state

    for layout in (False, True):  # eagerly, and traced, as on a mesh
        begun = (jax.jit if layout else lambda f: f)(lambda: initial_state(normalised(init=init)).params)()
        np.testing.assert_array_equal(begun["in"]["w"], state.averaged["in"]["w"])
        np.testing.assert_array_equal(begun["head"], jnp.full(3, 2.0))
    assert capsys.readouterr().out.count("3 of 4 arrays are loaded;\n  head is absent") == 1


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_file_is_renamed_and_cast(tmp_path, suffix, capsys):
    path = save_parameters(TREE, tmp_path / f"model.{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    for rename in ({"body/*": "trunk/*"}, lambda name: name.replace("body", "trunk")):
        found = load_parameters(path, like=OTHER, partial=["head"], rename=rename)
        assert found["trunk"]["w"].dtype == jnp.bfloat16 and found["head"] is not OTHER["head"]
        np.testing.assert_array_equal(found["trunk"]["w"].astype(jnp.float32), TREE["body"]["w"])
        np.testing.assert_array_equal(found["head"]["w"], OTHER["head"]["w"])
    said = capsys.readouterr().out
    assert "1 of 3 arrays are loaded" in said and "head/w is [3, 1] there and [3, 4] here" in said


def test_names_of_pytorch_are_paths(tmp_path):
    from safetensors.numpy import save_file

    save_file({"body.0.weight": np.ones((2, 3), np.float32)}, tmp_path / "torch.safetensors")
    found = load_parameters(tmp_path / "torch.safetensors", like={"body": [{"weight": jnp.zeros((2, 3))}]})
    np.testing.assert_array_equal(found["body"][0]["weight"], 1)
    with pytest.raises(CheckpointError, match="(?s)is \\[2, 3\\] there and \\[3, 2\\] here.*transposed"):
        load_parameters(tmp_path / "torch.safetensors", like={"body": [{"weight": jnp.zeros((3, 2))}]})


def test_a_tree_of_one_array(tmp_path):
    path = save_parameters(jnp.arange(3.0), tmp_path / "one.safetensors")
    np.testing.assert_array_equal(load_parameters(path, like=jnp.zeros(3)), [0, 1, 2])


def test_what_does_not_fit_is_named(tmp_path):
    path = save_parameters(TREE, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="(?s)trunk/w is absent.*body/w is there and not here.*partial="):
        load_parameters(path, like=OTHER)
    with pytest.raises(CheckpointError, match="(?s)trunk/w is absent") as raised:
        load_parameters(path, like=OTHER, partial="head")
    assert "head/w" not in str(raised.value)
    with pytest.raises(CheckpointError, match="no array of the name 'tail/\\*', but: body/w, head"):
        load_parameters(path, like=OTHER, rename={"tail/*": "head/*"})
    with pytest.raises(CheckpointError, match="would be called 'x'"):
        load_parameters(path, like=OTHER, rename=lambda name: "x")
    with pytest.raises(CheckpointError, match="neither a run with a checkpoint"):
        load_parameters(tmp_path / "nothing", like=OTHER)
    with pytest.raises(RunError, match="absent.npz cannot be read"):
        load_parameters(tmp_path / "absent.npz", like=OTHER)
    with pytest.raises(RunError, match="must end in .safetensors or .npz"):
        save_parameters(TREE, tmp_path / "model.pkl")
