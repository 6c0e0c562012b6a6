"""Avals, the types of values (shape, dtype, weak type, sharding), and the constants that are made to be of one."""

from collections.abc import Iterable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src import core
from jax._src.dtypes import ExtendedDType
from jax.experimental.hijax import HiType
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_AS_IT_IS = nullcontext()
_CONSTANTS = (bool, int, float, complex, np.ndarray, np.generic)
_NUMBERS = (bool, int, float, complex, str, type(None), np.ndarray)  # no value of a hijax type, and known at once


def varying_axes(aval: Any) -> frozenset[Any]:
    """The mesh axes along which a value differs from device to device inside `shard_map`, where its type says so."""
    return aval.manual_axis_type.varying


def aval_of(x: Any) -> Any:
    """The aval of an array, tracer or Python scalar."""
    return jax.typeof(x)


def vary(x: Any, axes: Iterable[Any]) -> Any:
    """A value that varies along these axes at least."""
    missing = frozenset(axes) - varying_axes(aval_of(x))
    return lax.pcast(x, tuple(sorted(missing, key=str)), to="varying") if missing else x


def as_jax_array(x: Any) -> Any:
    """A number or NumPy array, as which a trace keeps constants, as a jax array of its type; all else as it is."""
    if not isinstance(x, _CONSTANTS):
        return x
    if isinstance(x, np.ndarray) and core.trace_state_clean():
        return jax.device_put(x)  # `jnp.asarray` would compile a program for each new shape
    return jnp.asarray(x)


def is_weak(x: Any) -> bool:
    """Whether an array or aval gives way to the dtype of what it is combined with, as a Python number does."""
    return getattr(x, "weak_type", False)


def as_weak(x: Any, weak: bool = True) -> Any:
    """An array as one of a weak type, or of a strong one."""
    if is_weak(x) == weak:
        return x
    return jax.lax.convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=weak, sharding=None)


def zeros_like_stack(x: Any, length: int) -> Any:
    """A stack of `length` zeros like `x`; keys are stacked as copies."""
    aval = aval_of(x)
    if is_extended(aval.dtype):
        return jax.lax.broadcast(x, (length,), out_sharding=explicit_sharding(aval, 1))
    return zeros_like_aval(aval, (length,))


def is_hijax(aval: Any) -> bool:
    """Whether the type is one of `jax.experimental.hijax`: a user's own, with zeros and sums of its own."""
    return isinstance(aval, HiType)


def is_value(x: Any) -> bool:
    """Whether something is a jax array, or a value of a hijax type."""
    return isinstance(x, jax.Array) or (type(x) not in _NUMBERS and _is_of_hijax_type(x))


def _is_of_hijax_type(x: Any) -> bool:
    try:
        return is_hijax(jax.typeof(x))
    except TypeError:  # no JAX type at all
        return False


def _has_tangents(aval: Any) -> bool:
    """Whether a hijax type says what its tangents are, and that they are not trivial."""
    try:
        tangent = aval.to_tangent_aval()
    except (AssertionError, NotImplementedError, TypeError):  # what JAX raises where a class does not say it
        return False
    return getattr(tangent, "dtype", None) != jax.dtypes.float0


def is_inexact(aval: Any) -> bool:
    """Whether a value of this aval can carry a cotangent: a real or complex floating dtype, an extended one with
    tangents, or a hijax type."""
    if is_hijax(aval):
        return _has_tangents(aval)
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and _is_inexact_dtype(dtype)


@lru_cache(maxsize=256)
def _is_inexact_dtype(dtype: Any) -> bool:
    if not is_extended(dtype):
        return jax.dtypes.issubdtype(dtype, np.inexact)
    return getattr(dtype._rules, "tangent_dtype", _no_tangents)(dtype) != jax.dtypes.float0


def is_extended(dtype: Any) -> bool:
    """Whether a dtype is one of JAX's extended ones: that of keys, or one whose sums and zeros its author defines."""
    return isinstance(dtype, ExtendedDType)


def has_own_sums(aval: Any) -> bool:
    """Whether the sum of two values is defined by the author of their type: of a hijax type, or an extended dtype."""
    return is_hijax(aval) or is_extended(aval.dtype)


def _no_tangents(dtype: Any) -> Any:
    return jax.dtypes.float0


def operand_avals(equation: Any) -> list[Any]:
    return [atom.aval for atom in equation.invars]


def output_avals(equation: Any) -> list[Any]:
    return [var.aval for var in equation.outvars]


def zeros_like_aval(aval: Any, lead: tuple[int, ...] = ()) -> Any:
    """Zeros of an aval's shape, after leading axes `lead`, dtype, sharding, and type over the axes of `shard_map`."""
    if is_hijax(aval):
        if lead:
            raise NotImplementedError(f"the gradient of a loop that scans over values of the hijax type {aval}")
        try:
            return aval.vspace_zero()
        except (AssertionError, NotImplementedError):  # as above
            raise NotImplementedError(f"a gradient needs zeros of the hijax type {aval}: define vspace_zero") from None
    sharding = explicit_sharding(aval, len(lead))
    if is_extended(aval.dtype):
        return jax.lax.broadcast(aval.dtype._rules.zero(aval.dtype), (*lead, *aval.shape), out_sharding=sharding)
    with in_mesh_of(aval):
        zeros = jax.lax.full((*lead, *aval.shape), 0, aval.dtype, sharding=sharding)
    zeros = lay_out(zeros, sharding)  # outside of its mesh, JAX 0.12 makes them of none
    return _manual_like(zeros, aval.manual_axis_type)


def _manual_like(x: Any, manual: Any) -> Any:
    """A constant as a value of this manual type: varying, unreduced and reduced over the type's axes."""
    x = jax.lax.pcast(x, tuple(manual.varying | manual.unreduced), to="varying")
    x = jax.lax.pcast(x, tuple(manual.unreduced), to="unreduced")
    return jax.lax.pcast(x, tuple(manual.reduced), to="reduced")


def zero_tangent(aval: Any) -> Any:
    """The zero tangent of a value of this aval, or its cotangent: float0 for integers, booleans and keys."""
    if is_hijax(aval):
        aval = aval.to_tangent_aval()
    return zeros_like_aval(aval) if is_inexact(aval) else np.zeros(aval.shape, jax.dtypes.float0)


def explicit_sharding(aval: Any, lead: int = 0) -> Any:
    """The sharding that a value of this aval must have, if its mesh has explicit axes; else None: the compiler's.

    lead: of a stack of such values, with this many leading axes, along which it is not divided."""
    sharding = getattr(aval, "sharding", None)
    if sharding is None or AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return with_partitions(sharding, (*[None] * lead, *sharding.spec.partitions)) if lead else sharding


def cotangent_sharding(aval: Any) -> Any:
    """The explicit sharding of the cotangent of a value of this aval: reduced and unreduced exchanged; or None."""
    sharding = explicit_sharding(aval)
    return sharding and cotangent_aval(aval).sharding


def with_partitions(sharding: Any, partitions: Any) -> Any:
    """A sharding with other partitions, unreduced and reduced over the same axes."""
    spec = PartitionSpec(*partitions, unreduced=sharding.spec.unreduced, reduced=sharding.spec.reduced)
    return NamedSharding(sharding.mesh, spec)


def replicated(mesh: Any, rank: int) -> Any:
    """The sharding of an array that is whole on each device of a mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * rank))


def lay_out(x: Any, sharding: Any) -> Any:
    """A value in the explicit sharding that its type demands; None: as it is."""
    if sharding is None or aval_of(x).sharding == sharding:
        return x
    with _in_mesh(sharding.mesh):  # under vmap, the mode of the mesh says whether the examples stay divided
        return jax.sharding.reshard(x, sharding)


def in_present_mesh(x: Any) -> Any:
    """A value as one of the mesh in its present mode: what a region in another mode reads from outside, such as a
    Python number, may be of no mesh, and its cotangent is of the region's."""
    sharding, present = aval_of(x).sharding, jax.sharding.get_abstract_mesh()
    if sharding.mesh.empty or present.empty or sharding.mesh == present:
        return x
    return jax.sharding.reshard(x, NamedSharding(present, sharding.spec))


def cotangent_aval(aval: Any) -> Any:
    """The type of a value's cotangent: that of the value, but reduced and unreduced exchanged."""
    return aval.to_ct_aval()


def zero_cotangent(aval: Any, lead: tuple[int, ...] = ()) -> Any:
    """The zero cotangent of a value of this aval; of a stack of such values, with leading axes `lead`."""
    return zeros_like_aval(cotangent_aval(aval), lead)


def add_typed(x: Any, y: Any) -> Any:
    """x + y of one type, in the mesh of that type: JAX refuses it where the context has the mesh in another mode."""
    aval = aval_of(y)
    if is_hijax(aval):
        return aval.vspace_add(x, y)
    if is_extended(aval.dtype):
        return aval.dtype._rules.add(aval.dtype, x, y)
    with in_mesh_of(aval):
        return jax.lax.add(x, y)


def in_mesh_of(aval: Any) -> Any:
    """The context of an aval's mesh, where the present context has the mesh in another mode."""
    return _in_mesh(aval.sharding.mesh)


def _in_mesh(mesh: Any) -> Any:
    current = jax.sharding.get_abstract_mesh()
    if mesh.empty or current.empty or mesh == current:
        return _AS_IT_IS
    return jax.sharding.use_abstract_mesh(mesh)


def optimization_barrier(values: Any) -> Any:
    """`lax.optimization_barrier` of a pytree, one for each manual type: JAX 0.10.2 would give all of them one type.
    Values of hijax types pass as they are."""
    leaves, tree = jax.tree.flatten(values)
    types = [None if is_hijax(aval := aval_of(leaf)) else aval.manual_axis_type for leaf in leaves]
    for manual in dict.fromkeys(filter(None, types)):
        alike = [i for i, other in enumerate(types) if other == manual]
        for i, leaf in zip(alike, jax.lax.optimization_barrier([leaves[i] for i in alike]), strict=True):
            leaves[i] = leaf
    return tree.unflatten(leaves)
