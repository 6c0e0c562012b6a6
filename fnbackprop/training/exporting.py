"""A trained model as a program of its own: what `predict` computes, as `jax.export` serialises it, and its parameters.

The folder needs neither this package nor the experiment's file, only jax, safetensors and flatbuffers:

program.jax               the serialised program, of parameters by their paths and of inputs
parameters.safetensors    the parameters, and under "model_state/" the model state
use.py                    how both are loaded, in ten lines; `from use import predict`
"""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from fnbackprop import trees
from fnbackprop.experiment import Experiment, ExperimentError, require_experiment
from fnbackprop.extras import needed_for

from .array_files import WHOLE, named_arrays, write_arrays
from .errors import RunError
from .step.mixed_precision import INPUTS
from .step.state import TrainState

PROGRAM = "program.jax"
USE = '''"""The exported model {name}, after {step} steps. It needs jax, safetensors and flatbuffers, and nothing else.

    from use import predict
    outputs = predict(inputs)  # {inputs}

It was exported for {platforms}.
"""

from pathlib import Path

import jax
from jax import export
from safetensors.numpy import load_file

FOLDER = Path(__file__).parent
PARAMETERS = load_file(FOLDER / "parameters.safetensors")
PROGRAM = export.deserialize(bytearray((FOLDER / "program.jax").read_bytes()))


@jax.jit
def apply(parameters, inputs):
    return PROGRAM.call(parameters, inputs)


def predict(inputs):
    return apply(PARAMETERS, inputs)
'''


def export_model(
    experiment: Experiment, state: TrainState, folder: str | Path, *, platforms: Sequence[str] = ()
) -> Path:
    """Write what `experiment.predict` computes with the parameters of a state, or with their average if one is kept.

    Args:
      experiment: has `predict`. The shapes of its inputs are those in `batch(0)`: the one array that is named as inputs
        are ("x", "inputs", "images" ...), the first of a tuple, or the batch itself. Their first axis may then have any
        length.
      state: of a run, from `fb.load_checkpoint` for instance.
      folder: where `program.jax`, `parameters.safetensors` and `use.py` are written.
      platforms: for which the program is made, of "cpu", "cuda", "rocm" and "tpu"; by default, this machine's.

    Returns:
      The folder.
    Raises:
      ExperimentError: there is no `predict`, or it is not seen what its inputs are.
      RunError: a file cannot be written.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, optax, tempfile
      >>> experiment = fb.Experiment(
      ...     name="line", init=lambda key: {"w": jnp.array(2.0)}, batch=lambda step: {"x": jnp.ones(4)}, steps=1,
      ...     loss=lambda params, batch, key: jnp.mean(params["w"] * batch["x"]), optimizer=optax.sgd(0.5),
      ...     predict=lambda params, x: params["w"] * x)
      >>> state = fb.train(experiment, directory=None, progress=False)
      >>> folder = fb.export_model(experiment, state, tempfile.mkdtemp())
      >>> sorted(path.name for path in folder.iterdir())
      ['parameters.safetensors', 'program.jax', 'use.py']
    """
    require_experiment("export_model", experiment)
    if experiment.predict is None:
        raise ExperimentError("to export, give the Experiment predict=..., a function (params, inputs) -> outputs.")
    with needed_for("export"):
        importlib.import_module("flatbuffers")  # which jax.export serialises with
    arrays, program = _flat_program(experiment.predict, state)
    inputs = _inputs_of(experiment.batch(0))
    exported, shape = _exported(program, arrays, inputs, platforms)
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{place} cannot be made: {error.strerror}.") from None
    write_arrays(place / "parameters.safetensors", jax.device_get(arrays))
    facts = {"name": experiment.name, "step": int(state.step), "inputs": shape}
    _write(place / PROGRAM, bytes(exported.serialize()))
    _write(place / "use.py", USE.format(**facts, platforms=", ".join(exported.platforms)).encode())
    return place


def _flat_program(predict: Callable[..., Any], state: TrainState) -> tuple[dict[str, Any], Any]:
    """The arrays by their names, and `program(arrays, inputs)`; random keys are constants of the program."""
    model = {"params": state.averaged}
    if state.model_state is not None:
        model["model_state"] = state.averaged_model_state
    names = {"params": lambda path: path or WHOLE, "model_state": lambda path: f"model_state/{path}"}

    def is_key(leaf: Any) -> bool:
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    arrays = {
        names[part](path): leaf
        for part, tree in model.items()
        for path, leaf in trees.leaves_with_paths(tree)
        if not is_key(leaf)
    }

    def program(arrays: dict[str, Any], inputs: Any) -> Any:
        given = [
            trees.map_with_paths(lambda path, leaf, of=names[part]: leaf if is_key(leaf) else arrays[of(path)], tree)
            for part, tree in model.items()
        ]
        return predict(*given, inputs)

    return arrays, program


def _inputs_of(batch: Any) -> Any:
    """What a network is given of a batch."""
    if isinstance(batch, tuple):
        return batch[0]
    leaves = named_arrays(batch)
    if len(leaves) == 1:
        return next(iter(leaves.values()))
    found = [leaf for path, leaf in leaves.items() if any(trees.matches(path, pattern) for pattern in INPUTS)]
    if len(found) != 1:
        raise ExperimentError(
            f"of the batch's arrays ({', '.join(leaves)}) the one that predict is given must be named as inputs are: "
            f"{', '.join(INPUTS)}."
        )
    return found[0]


def _exported(program: Any, arrays: Any, inputs: Any, platforms: Sequence[str]) -> tuple[Any, str]:
    """The program for any number of examples, or else for that of the batch; and the inputs in words."""
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf)), inputs)
    make = export.export(jax.jit(program), platforms=list(platforms) or None)
    kinds = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays)
    try:
        free = jax.tree.map(_of_any_length, like, is_leaf=lambda leaf: hasattr(leaf, "shape"))
        return make(kinds, free), _in_words(free)
    except Exception:  # a shape that predict computes with
        return make(kinds, like), f"{_in_words(like)}: predict needs this number of examples"


def _of_any_length(leaf: Any) -> Any:
    if not leaf.shape:
        return leaf
    dimensions = export.symbolic_shape(", ".join(["batch", *map(str, leaf.shape[1:])]))
    return jax.ShapeDtypeStruct(dimensions, leaf.dtype)


def _in_words(inputs: Any) -> str:
    return ", ".join(f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for leaf in jax.tree.leaves(inputs))


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from None
