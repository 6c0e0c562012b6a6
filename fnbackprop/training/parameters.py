"""Parameters out of a run or of a file, into a tree of the same or of another model; and into a file."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from fnbackprop import trees

from .array_files import SUFFIXES, WHOLE, named_arrays, read_arrays, write_arrays
from .checkpoints.arrays import is_key, read_leaves
from .checkpoints.checkpoint import Checkpoint, finished_checkpoints, last_good
from .errors import CheckpointError
from .run_folder import RunFolder, has_step

Rename = Mapping[str, str] | Callable[[str], str]
LINES_SHOWN = 8
MODEL_STATE = "model_state"
_said: set[str] = set()  # `init`, from which parameters are loaded, is called several times


def load_parameters(
    source: str | Path,
    *,
    like: Any,
    partial: bool | str | Sequence[str] = False,
    rename: Rename | None = None,
    part: str = "params",
    averaged: bool = True,
) -> Any:
    """The parameters of a run, without its optimizer, or those of a safetensors or npz file, in the tree of a model.

    To begin from them: `init=lambda key: fb.load_parameters("runs/big", like=model.init(key), partial="head")`.

    Args:
      source: the folder of a run, of which the newest whole checkpoint is read; the folder of a checkpoint; or a file.
      like: a tree of arrays: the result has its structure, its dtypes and the devices where they lie.
      partial: whether the source may lack leaves, have leaves of another shape, and have more than are used; or
        patterns of the paths, with everything below them, of which that is so: "head". Such leaves stay as in `like`;
        a line lists them, once.
      rename: from names in the source to paths in `like`: patterns such as {"encoder/*": "backbone/*"}, where * is any
        text, or a function from name to name.
      part: of a run or of its `model.safetensors`, "params", or "model_state" of an experiment that `has_state`.
        Random keys stay as in `like`.
      averaged: of a run that kept a moving average (`ema`), whether that is taken: as `evaluate` has it.

    Returns:
      A tree like `like`, of the same shapes, dtypes and placement.
    Raises:
      CheckpointError: there are no such parameters; or their names or shapes are others than those of `like`.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, tempfile
      >>> path = fb.save_parameters({"w": jnp.ones(2)}, tempfile.mkdtemp() + "/model.npz")
      >>> fb.load_parameters(path, like={"w": jnp.zeros(2)})["w"]
      Array([1., 1.], dtype=float32)
    """
    path = Path(source)
    wanted = {name: leaf for name, leaf in named_arrays(like).items() if not is_key(leaf)}
    with jax.ensure_compile_time_eval():  # `init` may be traced
        stored = _renamed(_read(path, part, averaged, wanted), rename, path)
    loaded = _chosen(stored, wanted, partial, path)
    return trees.map_with_paths(lambda name, leaf: _placed(loaded.get(name or WHOLE), leaf), like)


def save_parameters(params: Any, path: str | Path) -> Path:
    """Write a tree of arrays as a safetensors or an npz file, by the paths of its leaves.

    Args:
      params: a pytree of arrays of any shapes and dtypes.
      path: the file to write, which ends in .safetensors or .npz.

    Returns:
      The path.
    Raises:
      RunError: the file cannot be written, or its name ends in something else.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp, tempfile
      >>> params = {"head": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}}
      >>> path = fb.save_parameters(params, tempfile.mkdtemp() + "/model.safetensors")
      >>> fb.load_parameters(path, like=params)["head"]["b"]
      Array([0., 0., 0.], dtype=float32)
    """
    return write_arrays(Path(path), jax.device_get(named_arrays(params)))


def _read(path: Path, part: str, averaged: bool, wanted: Collection[str]) -> dict[str, np.ndarray]:
    if path.suffix in SUFFIXES:
        return _part_of_file(path, part, wanted)
    found = [Checkpoint(path)] if has_step(path) else finished_checkpoints(RunFolder(path))
    good, damaged = last_good(found)
    if good is None:
        why = " ".join(damaged.values()) or "It is neither a run with a checkpoint nor a safetensors or npz file."
        raise CheckpointError(f"{path} has no parameters to load. {why}")
    average = {"params": "ema", "model_state": "model_state_ema"}.get(part, part)
    for name in [average, part] if averaged else [part]:
        if stored := read_leaves(good, name):
            return {path or WHOLE: array for path, array in stored.items()}
    raise CheckpointError(f"{good.folder} has no {part}.")


def _part_of_file(path: Path, part: str, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of a file; of a run's, the state lies below "model_state", beside the parameters' own names."""
    stored = read_arrays(path)
    if any(trees.within(name, [MODEL_STATE]) for name in wanted):  # a tree of the user's that holds both
        return stored
    state = {name for name in stored if trees.within(name, [MODEL_STATE])}
    if part != MODEL_STATE:
        return {name: array for name, array in stored.items() if name not in state}
    if not state:
        raise CheckpointError(f"{path} has no {part}.")
    return {name.removeprefix(part).removeprefix("/") or WHOLE: stored[name] for name in state}


def _chosen(
    stored: Mapping[str, np.ndarray], wanted: Mapping[str, Any], partial: bool | str | Sequence[str], path: Path
) -> dict[str, np.ndarray]:
    """The arrays that have a leaf of the same name and shape. Raises CheckpointError for what `partial` does not allow
    to differ, and says what else does."""
    absent = [f"{name} is absent" for name in wanted if name not in stored]
    shapes = {name: (np.shape(stored[name]), np.shape(leaf)) for name, leaf in wanted.items() if name in stored}
    unlike = {name: f"{name} is {list(there)} there and {list(here)} here" for name, (there, here) in shapes.items()
              if there != here}  # fmt: skip
    unused = [f"{name} is there and not here" for name in stored if name not in wanted]
    allowed = [partial] if isinstance(partial, str) else partial
    problems = [*absent, *unlike.values(), *unused]
    wrong = [line for line in problems if allowed is False or not (allowed is True or _is_within(line, allowed))]
    if wrong:
        raise CheckpointError(f"{path} has other parameters than the model:\n{_lines(wrong)}\n{_advice(shapes)}")
    if problems:
        _say(f"{path}: {len(shapes) - len(unlike)} of {len(wanted)} arrays are loaded;\n{_lines(problems)}")
    return {name: stored[name] for name in shapes if name not in unlike}


def _renamed(stored: dict[str, np.ndarray], rename: Rename | None, path: Path) -> dict[str, np.ndarray]:
    """The arrays by their new names; raises CheckpointError for a pattern that matches none, and for one name twice."""
    if rename is None:
        return stored
    if callable(rename):
        names = {name: rename(name) for name in stored}
    else:
        used, names = set(), {}
        for name in stored:
            names[name] = name
            for pattern, to in rename.items():
                if match := re.fullmatch(re.escape(pattern).replace(r"\*", "(.*)"), name):
                    names[name] = to.replace("*", "".join(match.groups()[:1]), 1)
                    used.add(pattern)
                    break
        for pattern in [pattern for pattern in rename if pattern not in used]:
            raise CheckpointError(f"rename: {path} has no array of the name {pattern!r}, but: {', '.join(stored)}.")
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise CheckpointError(f"rename: two arrays of {path} would be called {twice[0]!r}.")
    return {names[name]: array for name, array in stored.items()}


def _placed(array: np.ndarray | None, leaf: Any) -> Any:
    """The loaded array in the dtype and on the devices of the leaf; without one, the leaf."""
    if array is None:
        return leaf
    array = np.asarray(array).astype(leaf.dtype)
    known = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    return jax.device_put(array, leaf.sharding if known else None)


def _is_within(line: str, patterns: Sequence[str]) -> bool:
    return trees.within(line.split(" is ")[0], patterns)


def _lines(lines: Sequence[str]) -> str:
    more = [f"  and {len(lines) - LINES_SHOWN} more"] if len(lines) > LINES_SHOWN else []
    return "\n".join([f"  {line}" for line in lines[:LINES_SHOWN]] + more)


def _advice(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    turned = any(there != here and there == here[::-1] for there, here in shapes.values())
    hint = " Some are transposed: PyTorch's linear layers keep (outputs, inputs)." if turned else ""
    return f'partial=True, or partial="head", leaves such as they are; rename={{"old/*": "new/*"}} renames.{hint}'


def _say(line: str) -> None:
    if line not in _said and jax.process_index() == 0:
        _said.add(line)
        print(line, flush=True)
