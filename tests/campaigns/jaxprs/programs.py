"""The programs whose jaxprs are recorded: the benchmarks', the models' and one or more for each rule.

They use nothing of fnbackprop but its top level and its models, so that they run on earlier revisions too.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnbackprop as fb

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "experiments" / "benchmarks"
SOURCES = (  # what decides the programs
    "tests/campaigns/jaxprs/*.py",
    "tests/campaigns/mutants/programs/*.py",
    "tests/models/losses_of_models.py",
    "experiments/benchmarks/*.py",
)


class Form(NamedTuple):
    """One transformation of a loss; `tree` says how its operands are made from the loss's."""

    name: str
    transform: Callable  # (loss, argnums) -> function
    batched: bool = False


class Traced(NamedTuple):
    """One function to trace, with its operands."""

    name: str
    function: Callable
    operands: Sequence[Any]
    x64: bool = False


def gradient(loss: Callable, argnums: Any, **options: Any) -> Callable:
    return fb.value_and_grad(loss, argnums, **options)


def gradient_of_gradient(loss: Callable, argnums: Any) -> Callable:
    def size(*operands: Any) -> jax.Array:
        leaves = jax.tree.leaves(fb.grad(loss, argnums)(*operands))
        terms = [jnp.sum(jnp.real(g * jnp.conj(g))).astype("float32") for g in leaves]
        return sum(terms[1:], terms[0])

    return fb.grad(size, argnums)


FORMS = (
    Form("value_and_grad", gradient),
    Form("vmap", lambda loss, argnums: jax.vmap(gradient(loss, argnums)), batched=True),
    Form("second order", gradient_of_gradient),
    Form("jit", lambda loss, argnums: gradient(jax.jit(loss), argnums)),
    Form("budget", lambda loss, argnums: gradient(loss, argnums, budget=0.3)),
    Form("checkpoints", lambda loss, argnums: gradient(loss, argnums, checkpoints=3)),
)
BRIEF = FORMS[:3]  # of a rule's program: what a jit or a budget does is the engine's
LOOPS = ("scan", "while", "cond", "jit", "remat2", "custom_vjp_call", "custom_jvp_call", "shard_map")


def programs() -> Iterator[Traced]:
    """Every program in each of its forms."""
    for name, loss, operands, argnums in (*benchmarks(), *models()):
        for form in FORMS:
            yield traced(f"{name}: {form.name}", form, loss, operands, argnums)
    yield from rules()


def traced(name: str, form: Form, loss: Callable, operands: Sequence[Any], argnums: Any, x64: bool = False) -> Traced:
    shapes = jax.tree.map(lambda x: _shape_of(x, form.batched), tuple(operands))
    return Traced(name, form.transform(loss, argnums), shapes, x64)


def _shape_of(x: Any, batched: bool) -> jax.ShapeDtypeStruct:
    x = x if hasattr(x, "dtype") else np.asarray(x)
    return jax.ShapeDtypeStruct((2, *x.shape) if batched else x.shape, x.dtype)


def benchmarks() -> Iterator[tuple[str, Callable, Sequence[Any], Any]]:
    """(name, loss, operands, argnums) of experiments/benchmarks, whose modules are scripts."""
    sys.path.insert(0, str(BENCHMARKS))
    import loops
    import steps
    import tracing

    for name, make in loops.WORKLOADS.items():
        yield f"loops/{name}", *shapes_of(make), 0
    for name, shape in loops.SCANNED.items():
        yield f"loops/{name}", *shapes_of(partial(loops.gpt, 2, *shape[1:])), 0
    for name, shape in loops.UNROLLED.items():
        yield f"loops/{name}, 2 layers", *shapes_of(partial(loops.gpt, 2, *shape[1:], scan_layers=False)), 0
    yield "loops/while", while_loss, (jnp.ones((128, 128)), jnp.ones(128)), (0, 1)
    for name, make in steps.WORKLOADS.items():
        yield f"steps/{name}", *shapes_of(make if "GPT" not in name else partial(make, layers=2)), 0
    yield "tracing/deep MLP", *shapes_of(partial(tracing.deep_mlp, layers=8)), 0


def shapes_of(make: Callable) -> tuple[Callable, Sequence[Any]]:
    """The loss that `make` returns first, and the shapes of its operands, (loss, (x, y)) or (loss, x, y)."""
    losses = []

    def operands() -> Any:
        loss, *found = make()
        losses.append(loss)
        return found[0] if len(found) == 1 and isinstance(found[0], tuple) else tuple(found)

    shapes = jax.eval_shape(operands)
    return losses[0], shapes


def while_loss(w: jax.Array, h: jax.Array) -> jax.Array:
    """The loop of `loops.while_programs`, which needs another library for its baseline."""
    _, h = jax.lax.while_loop(lambda state: state[0] < 1000, lambda s: (s[0] + 1, jnp.tanh(w @ s[1])), (0, h))
    return jnp.sum(h**2)


def models() -> Iterator[tuple[str, Callable, Sequence[Any], Any]]:
    from tests.models.losses_of_models import LOSSES

    for name, make in LOSSES.items():
        for dtype in ("float32", "bfloat16"):
            yield f"models/{name} {dtype}", *shapes_of(partial(make, dtype)), 0


def rules() -> Iterator[Traced]:
    """The mutants' programs, of each rule; their floating operands in other dtypes too, to first order."""
    from tests.campaigns.mutants.programs import PROGRAMS

    for program in (program for found in PROGRAMS.values() for program in found):
        forms = FORMS if program.primitive in LOOPS else BRIEF
        for form in forms:
            yield traced(f"rules/{program}: {form.name}", form, program.loss, program.operands, program.argnums)
        for dtype in ("bfloat16", "float64"):
            operands = [_in_dtype(x, dtype) for x in program.operands]
            yield traced(
                f"rules/{program} {dtype}", FORMS[0], program.loss, operands, program.argnums, dtype == "float64"
            )


def _in_dtype(x: Any, dtype: str) -> Any:
    """The shape in another floating dtype; complex numbers in the complex one that goes with it."""
    if not jnp.issubdtype(x.dtype, np.inexact):
        return x
    if jnp.iscomplexobj(x):
        dtype = "complex128" if dtype == "float64" else "complex64"
    return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype))
