"""The gradient with respect to named values inside a function, whose signature stays as it is.

A zero is added to each value of these names; the gradient with respect to the zero is the value's cotangent:

    y = f(h(x)),   F(x, e) = f(h(x) + e),   dF/de at e = 0 is dy/dh

A value inside a scan has one zero for each step, which is scanned over.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import lax

from ..backprop.options import Options, takes_options
from ..backprop.transforms import grad
from ..jaxprs.avals import as_weak, is_inexact, is_weak, zeros_like_aval
from ..jaxprs.compat import checkpointed, switch_branch
from ..jaxprs.evaluate import bind, interpret, source_line, trace_avals, trace_flat
from ..jaxprs.graph import all_equations, inner_jaxprs
from ..jaxprs.primitives import Trait, has
from ..jaxprs.types import ClosedJaxpr, Equation
from ..jaxprs.views import Call, Cond, Scan

Take = Callable[[str, Any], Any]  # (name, aval) -> what is added to the next value of that name


@takes_options
def named_grad(fun: Callable, names: str | Sequence[str], **options: Unpack[Options]) -> Callable[..., dict[str, Any]]:
    """The gradient of `fun` with respect to values inside it that have a name (`fb.name`, JAX's `checkpoint_name`).

    Args:
      fun: a function of real scalar value, whose arguments are pytrees of arrays.
      names: of the values; one that was given several times (by layers of a Python loop) stands for all of these.
      options: those of the engine.

    Returns:
      a function of the same arguments that returns, by name, an array like the value; of one inside a `scan` with an
      axis for the steps in front; of several values of one name a tuple, in the order of the program. Of a branch of
      `cond` that is not taken the gradient is zero. It can be jitted and mapped.
    Raises:
      TypeError: the value is no real scalar.
      ValueError: no value has the name, or it lies where no zero can be added to it, such as in a `while_loop`.

    Example:
      >>> import fnbackprop as fb, jax, jax.numpy as jnp
      >>> def loss(w):
      ...     scores = fb.name(3 * w, "scores")
      ...     return jnp.sum(scores**2)
      >>> jax.jit(fb.named_grad(loss, "scores"))(jnp.ones(2))
      {'scores': Array([6., 6.], dtype=float32)}
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)

    @functools.wraps(fun, assigned=("__name__", "__doc__"), updated=())
    def gradients(*args):
        leaves, tree = jax.tree.flatten(args)
        leaves = list(map(jnp.asarray, leaves))
        closed = trace_flat(lambda *leaves: fun(*tree.unflatten(leaves)), leaves).closed
        if (count := len(closed.jaxpr.outvars)) != 1:
            raise TypeError(f"fb.named_grad: fun must return a real scalar alone, but it returned {count} arrays.")
        places = _places(closed, wanted)
        _check(closed, wanted, places)

        def shifted(zeros):
            given = iter(zeros)
            (value,) = _walk(closed, leaves, wanted, lambda name, aval: next(given))
            return value

        found = grad(shifted, **options)([zeros_like_aval(aval) for _, aval in places])
        groups = {name: [ct for ct, (of, _) in zip(found, places, strict=True) if of == name] for name in wanted}
        return {name: group[0] if len(group) == 1 else tuple(group) for name, group in groups.items()}

    return gradients


def _check(closed: ClosedJaxpr, wanted: Sequence[str], places: Sequence[tuple[str, Any]]) -> None:
    found = {name for name, _ in places}
    missing = [name for name in wanted if name not in found]
    if missing:
        there = sorted({equation.params["name"] for equation in _named(closed)})
        names = f"the names are {', '.join(map(repr, there))}" if there else "no value has a name"
        raise ValueError(f"fb.named_grad: no value is named {missing[0]!r}; {names}")
    for name, aval in places:
        if not is_inexact(aval):
            raise ValueError(f"fb.named_grad: {name!r} is {aval.str_short()}, which has no gradient")


def _places(closed: ClosedJaxpr, wanted: Sequence[str]) -> list[tuple[str, Any]]:
    """(name, aval) of the values of these names, in the order of the walk."""
    found: list[tuple[str, Any]] = []

    def take(name, aval):
        found.append((name, aval))
        return zeros_like_aval(aval)

    trace_avals(lambda *operands: _walk(closed, operands, wanted, take), [v.aval for v in closed.jaxpr.invars])
    return found


# ---------------------------------------------------------------- the walk


def _walk(closed: ClosedJaxpr, operands: Sequence[Any], wanted: Sequence[str], take: Take) -> list[Any]:
    """Evaluate a jaxpr, with what `take` gives added to the values of these names."""

    def apply(equation, values):
        if equation.primitive.name == "name" and equation.params["name"] in wanted:
            (value,), aval = bind(equation, values), equation.outvars[0].aval
            shifted = lax.add(value, take(equation.params["name"], aval))
            return [as_weak(shifted) if is_weak(aval) else shifted]
        inside = (inner for jaxpr in inner_jaxprs(equation) for inner in _named(jaxpr))
        if not any(inner.params["name"] in wanted for inner in inside):
            return bind(equation, values)
        return _walk_inside(equation, values, wanted, take)

    return interpret(closed.jaxpr, closed.consts, operands, apply)


def _named(jaxpr: Any) -> Iterator[Equation]:
    """The equations that give a name."""
    return (equation for equation in all_equations(jaxpr) if equation.primitive.name == "name")


def _walk_inside(equation: Equation, values: list[Any], wanted: Sequence[str], take: Take) -> Sequence[Any]:
    name = equation.primitive.name
    if name == "scan":
        return _scan(Scan.of(equation), values, wanted, take)
    if name == "cond":
        return _cond(Cond.of(equation), values, wanted, take)
    if name == "remat2":
        return _remat(equation, values, wanted, take)
    if has(equation, Trait.CALL):
        return _walk(Call.of(equation).body, values, wanted, take)
    raise ValueError(
        f"fb.named_grad: a value lies in {name}, at {source_line(equation)}, where no zero can be added to it; "
        "name what goes in or comes out instead"
    )


def _taken(closed: ClosedJaxpr, wanted: Sequence[str], take: Take, lead: tuple[int, ...] = ()) -> list[Any]:
    """What is added to the values of a body, taken beforehand; `lead`: axes in front, for the steps."""
    places = _places(closed, wanted)
    stacks = trace_avals(lambda: [zeros_like_aval(aval, lead) for _, aval in places], []).out_avals
    return [take(name, aval) for (name, _), aval in zip(places, stacks, strict=True)]


def _given(zeros: Sequence[Any]) -> Take:
    given = iter(zeros)
    return lambda name, aval: next(given)


def _scan(loop: Scan, values: list[Any], wanted: Sequence[str], take: Take) -> list[Any]:
    """The zeros are scanned over beside the scan's own operands."""
    consts, carry, xs = loop.split(values)

    def step(carry, row):
        x, zeros = row
        outputs = _walk(loop.body, [*consts, *carry, *x], wanted, _given(zeros))
        return loop.split_results(outputs)

    carry, ys = loop.run(step, carry, (xs, _taken(loop.body, wanted, take, (loop.length,))))
    return [*carry, *ys]


def _cond(branches: Cond, values: list[Any], wanted: Sequence[str], take: Take) -> list[Any]:
    """Each branch has zeros of its own."""
    index, operands = branches.split(values)
    zeros = [_taken(body, wanted, take) for body in branches.branches]
    functions = [
        lambda operands, zeros, body=body, i=i: _walk(body, operands, wanted, _given(zeros[i]))
        for i, body in enumerate(branches.branches)
    ]
    return switch_branch(index, functions, branches.platforms, operands, zeros)


def _remat(equation: Equation, values: list[Any], wanted: Sequence[str], take: Take) -> list[Any]:
    """A checkpoint of the same policy."""
    body = Call.of(equation).body

    def run(operands, zeros):
        return _walk(body, operands, wanted, _given(zeros))

    return checkpointed(equation, run)(values, _taken(body, wanted, take))
