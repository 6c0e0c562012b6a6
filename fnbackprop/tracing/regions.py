"""Inside a `shard_map`: a value of which each device has its own piece is walked as the stack of these pieces.

A stack has a first axis for the devices along which the value varies, or of one element where all hold the same. Every
equation and every rule is run on stacks by a `shard_map` of its own, so that collectives mean what they mean.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..backprop.engine import fit
from ..backprop.registry import Structured
from ..jaxprs.avals import operand_avals, output_avals
from ..jaxprs.compat import quick_compilation
from ..jaxprs.evaluate import source_of, trace_avals
from ..jaxprs.lists import merge, select, split
from ..jaxprs.types import is_var, rebuild
from ..jaxprs.views import ShardMap
from ..rules.devices.collectives import device_sum
from ..rules.devices.shard_map import copied, exchanged, share, stacked


class Result(NamedTuple):
    """One value that is computed on each device: of this type, or, `backward`, a cotangent of a value of this type.
    `of`: the operand whose cotangent it is, a variable or its position."""

    aval: Any
    value: Any
    backward: bool = False
    of: Any = None


class Region:
    """The region of one `shard_map`.

    Attributes:
      view: of its equation.
    """

    def __init__(self, equation: Any):
        self.view = ShardMap.of(equation)
        self._outer, self._is_inside = jax.sharding.get_abstract_mesh(), False
        self._compiled: dict[Any, tuple[Callable, list[Result]]] = {}

    # ------------------------------------------------------------ stacks

    def axes(self, aval: Any) -> tuple[Any, ...]:
        """The mesh axes along which a stack of this type has different pieces, in the order of its first axis."""
        (partition,) = tuple(stacked(self.view, aval).partitions) or (None,)
        return partition if isinstance(partition, tuple) else () if partition is None else (partition,)

    def device(self, aval: Any, number: int) -> tuple[tuple[str, int], ...]:
        """The coordinates in the mesh of one piece of a stack."""
        axes = self.axes(aval)
        coordinates = np.unravel_index(number, [self.view.mesh.shape[a] for a in axes]) if axes else ()
        return tuple((str(axis), int(i)) for axis, i in zip(axes, coordinates, strict=True))

    def stack(self, x: Any, aval: Any) -> Any:
        """A constant as a stack; what is one stays."""
        if np.ndim(x) != len(aval.shape):
            return x
        count = int(np.prod([self.view.mesh.shape[a] for a in self.axes(aval)], dtype=int))
        return jnp.broadcast_to(jnp.asarray(x, getattr(x, "dtype", aval.dtype))[None], (count, *aval.shape))

    def with_stacked_constants(self, closed: Any) -> Any:
        pairs = zip(closed.consts, closed.jaxpr.constvars, strict=True)
        consts = [self.stack(x, v.aval) for x, v in pairs]
        jaxpr = closed.jaxpr
        return rebuild(jaxpr, jaxpr.constvars, consts, jaxpr.invars, jaxpr.eqns) if consts else closed

    # ------------------------------------------------------------ running

    def outside(self) -> Any:
        """The context of the region's own equation, while one of its body is walked."""
        return jax.sharding.use_abstract_mesh(self._outer)

    def inside(self, function: Callable[[], Any]) -> Any:
        """What a function without arguments returns where the mesh axes have names; it may return no array."""
        if self._is_inside:
            return function()
        found, self._is_inside = [], True

        def probe():
            found.append(function())
            return ()

        try:
            with self.outside():
                trace_avals(self.view.map(probe, (), ()), ())
        finally:
            self._is_inside = False
        return found[0]

    def run(self, key: Any, function: Callable, stacks: Sequence[Any], specs: Sequence[Any]) -> list[Result]:
        """The Results of `function(*pieces)` on each device, as stacks. Compiled once for each key and types.

        specs: of the stacks."""
        key = key, *(jax.typeof(x).str_short() for x in stacks)
        with self.outside():
            if key not in self._compiled:
                self._compiled[key] = self._compile(function, stacks, tuple(specs))
            run, results = self._compiled[key]
            return [r._replace(value=y) for r, y in zip(results, run(*stacks), strict=True)]

    def _compile(self, function: Callable, stacks: Sequence[Any], specs: tuple[Any, ...]) -> tuple:
        results: list[Result] = []

        def pieces(*stacks):
            found = function(*(lax.squeeze(x, (0,)) for x in stacks))
            results[:] = [r._replace(value=None) for r in found]
            return tuple(lax.expand_dims(r.value, (0,)) for r in found)

        def probe(*stacks):
            pieces(*stacks)
            return ()

        trace_avals(self.view.map(probe, specs, ()), [jax.typeof(x) for x in stacks])
        out_specs = tuple(self.spec(r.aval, r.backward) for r in results)
        return jax.jit(self.view.map(pieces, specs, out_specs), compiler_options=quick_compilation()), results

    def spec(self, aval: Any, backward: bool = False) -> Any:
        """Of the stack of a value of this type or, `backward`, of its cotangent."""
        spec = stacked(self.view, aval)
        return exchanged(spec) if backward else spec

    # ------------------------------------------------------------ equations

    def evaluate(self, engine: Any, step: Any, equation: Any, values: Sequence[Any]) -> list[Any]:
        """The outputs of one equation that no structured rule walks."""
        flags = [is_var(atom) for atom in equation.invars]
        literals = [x for x, flag in zip(values, flags, strict=True) if not flag]

        def function(*pieces):
            with source_of(equation):
                outputs, _ = engine.evaluate(step, equation, merge(flags, pieces, literals))
            return list(map(Result, output_avals(equation), outputs))

        specs = [self.spec(atom.aval) for atom in equation.invars if is_var(atom)]
        found = self.run((id(equation), id(step)), function, select(values, flags), specs)
        return [r.value for r in found]

    def pull(self, engine: Any, step: Any, env: dict, cts: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """As `Engine.pull`, of an equation that no structured rule walks."""
        variables = list(dict.fromkeys(step.variables()))

        def function(values, cts):
            keys, found = engine.pull(step, dict(zip(variables, values, strict=True)), None, cts)
            return [Result(v.aval, ct, True, v) for v, ct in zip(keys, found, strict=True)]

        avals, values = [v.aval for v in variables], [env[v] for v in variables]
        found = self.run_backward(step, step.equation, (avals, values), cts, function)
        return [r.of for r in found], [r.value for r in found]

    def whole(self, inner: Structured, equation: Any) -> Structured:
        """An equation that holds jaxprs, run as one: by its structured rule, which is made inside the region."""
        avals, outputs = operand_avals(equation), output_avals(equation)

        def forward(*operands):
            def function(*pieces):
                with source_of(equation):
                    return list(map(Result, outputs, inner.forward(*pieces)[0]))

            stacks = list(map(self.stack, operands, avals))
            found = self.run(id(inner.forward), function, stacks, list(map(self.spec, avals)))
            return [r.value for r in found], stacks

        def backward(stacks, cts):
            def function(values, cts):
                _, residuals = inner.forward(*values)
                found = enumerate(inner.backward(residuals, cts))
                return [Result(avals[i], fit(ct, avals[i]), True, i) for i, ct in found if ct is not None]

            found = self.run_backward(inner, equation, (avals, stacks), cts, function)
            return [next((r.value for r in found if r.of == i), None) for i in range(len(avals))]

        return Structured(forward, backward, inner.has_cotangent)

    def run_backward(
        self,
        owner: Any,
        equation: Any,
        known: tuple[Sequence[Any], Sequence[Any]],
        cts: Sequence[Any],
        pull: Callable,
        lines: Any = None,
    ) -> list[Result]:
        """The Results of `pull(values, cotangents)` on each device. owner: what it is compiled once for. known: the
        types of the values, and their stacks. cts: of the equation's outputs; None for one that is zero. lines: the
        context of what is traced, if it is not to have the equation's line."""
        avals, values = known
        given, outputs = [i for i, ct in enumerate(cts) if ct is not None], output_avals(equation)

        def function(*pieces):
            values, rest = split(pieces, len(avals))
            present = dict(zip(given, rest, strict=True))
            with source_of(equation) if lines is None else lines:
                return pull(values, [present.get(i) for i in range(len(outputs))])

        specs = [*map(self.spec, avals), *(self.spec(outputs[i], True) for i in given)]
        return self.run((id(owner), *given), function, [*values, *(cts[i] for i in given)], specs)

    # ------------------------------------------------------------ in and out

    def enter(self, operands: Sequence[Any]) -> list[Any]:
        """The pieces of the region's operands, as stacks."""
        inner = [self.spec(v.aval) for v in self._body.invars]
        return self._mapped("enter", operands, self.view.in_specs, inner, lambda i, x: lax.expand_dims(x, (0,)))

    def leave(self, outputs: Sequence[Any]) -> list[Any]:
        """The region's results, of the stacks of their pieces."""
        inner = [self.spec(v.aval) for v in self._body.outvars]
        return self._mapped("leave", outputs, inner, self.view.out_specs, lambda i, x: lax.squeeze(x, (0,)))

    def enter_backward(self, cts: Sequence[Any]) -> list[Any]:
        """The pieces of the results' cotangents, as stacks: of a mean of copies, each copy's share."""
        specs = self.view.out_specs
        inner = [self.spec(v.aval, True) for v in self._body.outvars]

        def piece(i, ct):
            return lax.expand_dims(share(self.view, specs[i], ct), (0,))

        return self._mapped("enter backward", cts, list(map(exchanged, specs)), inner, piece)

    def leave_backward(self, cts: Sequence[Any]) -> list[Any]:
        """The cotangents of the region's operands, of the stacks of their pieces: of what is copied, the sum."""
        specs = self.view.in_specs
        inner = [self.spec(v.aval, True) for v in self._body.invars]

        def whole(i, ct):
            return device_sum(lax.squeeze(ct, (0,)), copied(self.view, specs[i]))

        return self._mapped("leave backward", cts, inner, list(map(exchanged, specs)), whole)

    def _mapped(self, key: str, xs: Sequence[Any], before: Any, after: Any, change: Callable) -> list[Any]:
        """`change(i, x)` of each x that is not None, on each device."""
        given = [i for i, x in enumerate(xs) if x is not None]
        if (key, *given) not in self._compiled:

            def function(*pieces):
                return tuple(change(i, x) for i, x in zip(given, pieces, strict=True))

            specs = [tuple(specs[i] for i in given) for specs in (before, after)]
            self._compiled[key, *given] = jax.jit(self.view.map(function, *specs)), []
        with self.outside():
            found = dict(zip(given, self._compiled[key, *given][0](*(xs[i] for i in given)), strict=True))
        return [found.get(i) for i in range(len(xs))]

    @property
    def _body(self) -> Any:
        return self.view.body.jaxpr
