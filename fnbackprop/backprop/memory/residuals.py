"""What the backward of a loop body reads: saved, or recomputed.

A body is traced once, forward and backward together (the *joint* jaxpr). Its equations fall into two parts: those that
depend on a cotangent belong to the backward; the others to the forward. The values that cross from one part to the
other are the residuals, and any set that separates the forward's inputs from what the backward reads would do: the
equations between that set and the backward are recomputed. `save_policy.py` chooses the set.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...jaxprs.avals import aval_of, cotangent_aval, has_own_sums, in_present_mesh
from ...jaxprs.evaluate import bind, evaluate, read_atom, trace_avals
from ...jaxprs.graph import descendants, live, reads_any
from ...jaxprs.lists import partition
from ...jaxprs.primitives import Trait, has
from ...jaxprs.types import is_var
from .inner_saves import InnerSaves, inner_saves
from .save_policy import Boundary, Chooser


class Joint(NamedTuple):
    """A jaxpr's forward and backward traced as one."""

    closed: Any
    operands: tuple[Any, ...]  # variables: the forward's inputs
    cotangents: tuple[Any, ...]  # variables: the wanted outputs' cotangents
    outputs: tuple[Any, ...]  # atoms: the forward's outputs
    found: tuple[Any, ...]  # atoms: the operands' cotangents; None where none can come


def trace_joint(engine: Any, plan: Any, wanted: Sequence[bool], needed: Sequence[bool] = ()) -> Joint:
    """Trace a plan's forward and backward together.

    Args:
        wanted: the outputs that have a cotangent.
        needed: the operands whose cotangent must be an array, zeros if need be; by default none.
    """
    jaxpr = plan.closed.jaxpr
    in_avals = [v.aval for v in jaxpr.invars]
    ct_avals = [cotangent_aval(v.aval) for v, on in zip(jaxpr.outvars, wanted, strict=True) if on]
    pattern = []  # which operands' cotangents are not None

    def both(*flat):
        operands, cts = flat[: len(in_avals)], iter(flat[len(in_avals) :])
        outputs, saved = engine.forward(plan, operands)
        found = engine.backward(plan, saved, [next(cts) if on else None for on in wanted])
        for i in (i for i, on in enumerate(needed) if on):
            found[i] = engine.instantiate(found[i], in_avals[i])
        pattern[:] = [ct is not None for ct in found]
        # A loop's carry must not have a weak type.
        return [*outputs, *(_strongly_typed(ct) for ct in found if ct is not None)]

    closed = trace_avals(both, [*in_avals, *ct_avals])
    invars, outvars = closed.jaxpr.invars, closed.jaxpr.outvars
    count, outputs = len(in_avals), len(jaxpr.outvars)
    found = iter(outvars[outputs:])
    return Joint(
        closed,
        tuple(invars[:count]),
        tuple(invars[count:]),
        tuple(outvars[:outputs]),
        tuple(next(found) if on else None for on in pattern),
    )


def _strongly_typed(ct: Any) -> Any:
    if has_own_sums(aval_of(ct)):
        return ct
    ct = in_present_mesh(ct)
    return lax.convert_element_type(ct, ct.dtype)


@dataclass(frozen=True, eq=False)
class Split:
    """A joint jaxpr in two parts, and the forward values that the second reads."""

    closed: Any
    saved: tuple[Any, ...]  # forward values handed to the backward
    forward: tuple[Any, ...]  # equations of the forward part
    again: tuple[Any, ...]  # equations of the forward that the backward part starts with
    pulled: tuple[Any, ...]  # equations of the backward part that depend on a cotangent
    inner: dict[int, InnerSaves]  # by id, those of `again` inside which a policy saves values

    @property
    def backward(self) -> tuple[Any, ...]:
        """Equations of the backward part."""
        return (*self.again, *self.pulled)

    @property
    def recomputed(self) -> list[Any]:
        """The forward equations that are evaluated a second time, in the backward part."""
        forward = set(map(id, self.forward))
        return [equation for equation in self.again if id(equation) in forward]

    def run(
        self,
        equations: Sequence[Any],
        known: Iterable[tuple[Any, Any]],
        outputs: Sequence[Any],
        apply: Callable[[Any, list[Any]], Sequence[Any]] = bind,
    ) -> list[Any]:
        """Evaluate `equations` from pairs (variable, value); returns the values of the atoms `outputs`."""
        env = self._environment(known)
        evaluate(equations, env, apply)
        return [read_atom(env, atom) for atom in outputs]

    def run_forward(
        self, known: Iterable[tuple[Any, Any]], outputs: Sequence[Any]
    ) -> tuple[list[Any], tuple[tuple[Any, ...], ...]]:
        """As `run` of the forward part; beside the outputs, what is saved inside its loops and branches.

        A saved value of a narrow dtype is rounded to it for the forward too, which a compiler might else compute more
        exactly than what the backward will read."""
        kept = []

        def apply(equation: Any, values: list[Any]) -> Sequence[Any]:
            if id(equation) in self.inner:
                outputs, saved = self.inner[id(equation)].saving(values)
                kept.append(tuple(saved))
                return outputs
            pairs = zip(equation.outvars, bind(equation, values), strict=True)
            return [_rounded(y) if v in self.saved else y for v, y in pairs]

        return self.run(self.forward, known, outputs, apply), tuple(kept)

    def run_backward(
        self, known: Iterable[tuple[Any, Any]], kept: Sequence[Sequence[Any]], outputs: Sequence[Any]
    ) -> list[Any]:
        """As `run` of the backward part, with `kept` from `run_forward`. What it computes again has the name that JAX
        gives it in profiles."""
        env, kept_of = self._environment(known), dict(zip(self.inner, kept, strict=True))

        def apply(equation: Any, values: list[Any]) -> Sequence[Any]:
            if id(equation) in self.inner:
                return self.inner[id(equation)].replaying(values, kept_of[id(equation)])
            return bind(equation, values)

        with jax.named_scope("rematted_computation"):
            evaluate(self.again, env, apply)
        evaluate(self.pulled, env)
        return [read_atom(env, atom) for atom in outputs]

    def _environment(self, known: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        return {**dict(zip(self.closed.jaxpr.constvars, self.closed.consts, strict=True)), **dict(known)}


def _rounded(x: Any) -> Any:
    """A value in bfloat16 or float16, rounded to it explicitly; others as they are."""
    if getattr(x, "dtype", None) not in (jnp.bfloat16, jnp.float16):
        return x
    info = jnp.finfo(x.dtype)
    return lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=info.nmant)


def split(
    joint: Joint,
    available: Sequence[Any],
    invariant: Sequence[Any],
    choose: Chooser,
    stored: Iterable[Any] = (),
    policy: Callable | None = None,
) -> Split:
    """Split a joint jaxpr into its two parts.

    Args:
        available: the operands that the backward has without saving; `invariant`: those that do not change in the loop.
        choose: which forward values to save.
        stored: forward values that are stored in any case, and so cost nothing to save.
        policy: of a `jax.checkpoint`, which holds inside loops and branches too.
    """
    closed, jaxpr = joint.closed, joint.closed.jaxpr
    backward_outputs = [atom for atom in joint.found if atom is not None]
    dependent = descendants(jaxpr.eqns, joint.cotangents)
    forward, backward = partition(jaxpr.eqns, [not reads_any(e, dependent) for e in jaxpr.eqns])
    backward = live(backward, backward_outputs)
    atoms = (*(atom for e in backward for atom in e.invars), *backward_outputs)
    reads = dict.fromkeys(atom for atom in atoms if is_var(atom) and atom not in dependent)
    given = frozenset((*available, *jaxpr.constvars))
    derived = given | _determined(forward, [*invariant, *jaxpr.constvars])
    needed = tuple(v for v in reads if v not in derived)
    saved = tuple(choose(Boundary(tuple(forward), needed, derived, frozenset(stored))))
    again = _between(forward, saved, reads, given)
    inner = {} if policy is None else _inner_saves(again, backward, backward_outputs, policy)
    first = live(forward, [*joint.outputs, *saved, *(v for e in again if id(e) in inner for v in e.outvars)])
    again = _with_own_observers(forward, first, again)
    return Split(closed, saved, tuple(first), tuple(again), tuple(backward), inner)


def _with_own_observers(forward: Sequence[Any], first: Sequence[Any], again: Sequence[Any]) -> list[Any]:
    """`again` with the observers of what only it computes: what is computed twice is observed once."""
    observed = {id(e) for e in first}
    if all(id(e) in observed or not has(e, Trait.OBSERVER) for e in forward):
        return list(again)
    known = {v for e in again for v in e.outvars}
    chosen = {id(e) for e in again}
    return [
        e
        for e in forward
        if id(e) in chosen or (has(e, Trait.OBSERVER) and id(e) not in observed and reads_any(e, known))
    ]


def _inner_saves(again: Sequence[Any], backward: Sequence[Any], outputs: Sequence[Any], policy: Callable) -> dict:
    read = {atom for e in (*again, *backward) for atom in e.invars if is_var(atom)}.union(filter(is_var, outputs))
    found = {id(e): inner_saves(e, policy, [v in read for v in e.outvars]) for e in again}
    return {key: saves for key, saves in found.items() if saves is not None}


def _between(forward: Sequence[Any], saved: Sequence[Any], needed: Iterable[Any], given: frozenset) -> list[Any]:
    """The forward equations that compute the needed values from those that are saved or given."""
    wanted, found, known = set(needed), [], given.union(saved)
    for equation in reversed(forward):
        if any(v in wanted and v not in known for v in equation.outvars):
            found.append(equation)
            wanted.update(v for v in equation.invars if is_var(v))
    return found[::-1]


def _determined(equations: Sequence[Any], roots: Iterable[Any]) -> frozenset[Any]:
    """The values that depend on nothing but the roots and can be recomputed."""
    known = set(roots)
    for equation in equations:
        if not equation.effects and all(not is_var(v) or v in known for v in equation.invars):
            known.update(equation.outvars)
    return frozenset(known)
