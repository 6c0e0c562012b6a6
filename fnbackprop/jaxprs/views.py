"""Views of the equations that hold jaxprs: their jaxprs, and their operands and results in named groups.

    loop = Scan.of(equation)
    consts, carry, xs = loop.split(operands)
    carry, ys = loop.split_results(outputs)

`split` takes any list with one element per operand: values, cotangents, variables, avals, flags. A view holds no
operands, so equal calls have equal views, and a view can be the key of a cache.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .compat import axes_of_vmap, branch_platforms, called_jaxpr, scan_groups
from .lists import split
from .sizes import is_symbolic
from .types import close_jaxpr


class Call(NamedTuple):
    """A call of one function: jit, remat, composite, the primal of a custom rule ... Its operands are the body's."""

    body: Any
    name: str

    @classmethod
    def of(cls, equation: Any) -> "Call":
        return cls(close_jaxpr(called_jaxpr(equation)), equation.params.get("name", "call"))


class ScanOperands(NamedTuple):
    """A scan's operands. Its body takes the same groups, with one row of each of the xs."""

    consts: list[Any]  # the same at every step
    carry: list[Any]
    xs: list[Any]  # scanned over, one row per step


class Scan(NamedTuple):
    """`lax.scan`: carry, y_t = body(consts, carry, x_t) for each t."""

    body: Any
    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: Any

    @classmethod
    def of(cls, equation: Any) -> "Scan":
        params = equation.params
        return cls(params["jaxpr"], *scan_groups(equation), params["length"], params["reverse"], params["unroll"])

    def split(self, operands: Sequence[Any]) -> ScanOperands:
        return ScanOperands(*split(operands, self.num_consts, self.num_carry))

    def split_results(self, results: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """(carry, ys). The body returns the same groups, with one row of each of the ys."""
        carry, ys = split(results, self.num_carry)
        return carry, ys

    def run(self, step: Callable, carry: Any, xs: Any, backward: bool = False) -> tuple[Any, Any]:
        """A scan of `step(carry, x) -> (carry, y)` over the same steps; with `backward`, from the last to the first."""
        reverse = self.reverse != backward
        length = None if is_symbolic((self.length,)) else self.length  # then it is found from xs
        return lax.scan(step, carry, xs, length=length, reverse=reverse, unroll=self.unroll)


class WhileOperands(NamedTuple):
    """A while loop's operands. Its results are the carry."""

    condition_consts: list[Any]
    body_consts: list[Any]
    carry: list[Any]


class While(NamedTuple):
    """`lax.while_loop`: while condition(condition_consts, carry): carry = body(body_consts, carry)."""

    condition: Any
    body: Any
    num_condition_consts: int
    num_body_consts: int

    @classmethod
    def of(cls, equation: Any) -> "While":
        return cls(*(equation.params[name] for name in ("cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts")))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Of a loop under `vmap` whose condition has one flag for each example: the first axes of every carry."""
        return self.condition.jaxpr.outvars[0].aval.shape

    @staticmethod
    def flags_like(flags: Any, x: Any) -> Any:
        """The flags of the examples of a batched loop, for each element of a carry."""
        return jnp.broadcast_to(jnp.reshape(flags, (*flags.shape, *[1] * (x.ndim - flags.ndim))), x.shape)

    def split(self, operands: Sequence[Any]) -> WhileOperands:
        return WhileOperands(*split(operands, self.num_condition_consts, self.num_body_consts))

    def split_body(self, operands: Sequence[Any]) -> list[list[Any]]:
        """(constants, carry) of the body's own operands."""
        return split(operands, self.num_body_consts)


class Cond(NamedTuple):
    """`lax.cond`, `lax.switch`: branches[index](operands); with `platforms`, `lax.platform_dependent`."""

    branches: tuple[Any, ...]
    platforms: tuple[Any, ...] | None  # of each branch

    @classmethod
    def of(cls, equation: Any) -> "Cond":
        return cls(tuple(equation.params["branches"]), branch_platforms(equation))

    def split(self, operands: Sequence[Any]) -> tuple[Any, list[Any]]:
        """(index, operands of every branch)."""
        return operands[0], list(operands[1:])

    def taken(self, index: Any) -> int:
        """The number of the branch that a concrete index takes; JAX clamps it."""
        return min(max(int(index), 0), len(self.branches) - 1)


class ShardMap(NamedTuple):
    """`jax.shard_map`: the body runs on each device, on its pieces of the operands."""

    body: Any
    mesh: Any
    axes: frozenset[Any]  # the mesh axes that have names in the body
    check: bool  # whether types say along which axes values differ
    in_specs: tuple[Any, ...]
    out_specs: tuple[Any, ...]
    of_vmap: frozenset[Any]  # the mesh axes along which examples lie: no device has a part or a copy of another's

    @classmethod
    def of(cls, equation: Any) -> "ShardMap":
        params = equation.params
        axes, check = params["newly_manual_axes"], params["check_vma"]
        specs = tuple(params["in_specs"]), tuple(params["out_specs"])
        return cls(close_jaxpr(params["jaxpr"]), params["mesh"], axes, check, *specs, axes_of_vmap())

    def map(self, fun: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`fun` as a function of whole arrays, in the place of the body."""
        return jax.shard_map(
            fun, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=self.axes, check_vma=self.check
        )
