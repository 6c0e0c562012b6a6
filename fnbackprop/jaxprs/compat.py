"""Every difference between the JAX versions that are supported."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
from jax._src import ad_checkpoint, config, distributed
from jax._src import core as jax_core
from jax._src import hijax as hijax_module
from jax._src.api import NotNeeded as NotNeeded
from jax._src.tree_util import equality_errors_pytreedef as equality_errors_pytreedef
from jax.experimental import hijax
from jax.extend import core

from .avals import operand_avals

# Of a pullback's newer face: what a caller gives and gets in the place of a gradient that is not returned.
DontWant, DidntWant, GradRef = jax.ad.DontWant, jax.ad.DidntWant, jax.ad.GradRef
add_to_reference = jax.ref.addupdate
# What the backward of a hijax primitive adds cotangents to; the second, for an operand that needs none, drops them.
Accumulator, NullAccumulator = hijax_module.ad.ValAccum, hijax_module.ad.NullAccum


def with_constants(jaxpr: Any, consts: Sequence[Any]) -> Any:
    """An open jaxpr closed over the values of its constants."""
    if hasattr(jaxpr, "with_consts"):  # JAX 0.12: until then its constants are its first operands
        return jaxpr.with_consts(consts)
    return core.ClosedJaxpr(jaxpr, consts)


def name_of(fun: Callable) -> str:
    """The name of a function; of the user's, where `jax.grad` made it one of the differentiated arguments alone."""
    code, cells = getattr(fun, "__code__", None), getattr(fun, "__closure__", None)
    if code is not None and code.co_name == "f_wrapped" and "f" in code.co_freevars:
        return name_of(cells[code.co_freevars.index("f")].cell_contents)
    return getattr(fun, "__name__", "")


def has_state(aval: Any) -> bool:
    """Whether a value of this type is one of a mutable hijax type, whose contents JAX 0.10.2 types beside it."""
    return getattr(aval, "has_qdd", False)


def replaced_and_closed(jaxpr: Any, consts: Sequence[Any], **parts: Any) -> Any:
    """A jaxpr with other parts, `constvars` among them, closed over these constants."""
    if hasattr(jaxpr, "with_consts"):  # JAX 0.12: a jaxpr holds its constants
        return jaxpr.replace(**parts, consts=list(consts))
    return core.ClosedJaxpr(jaxpr.replace(**parts), list(consts))


def jit_shardings(equation: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The shardings that a jit prescribes for its operands and for its outputs; None where it prescribes none."""
    given = (equation.params.get(name, ()) for name in ("in_shardings", "out_shardings"))
    ins, outs = (tuple(s if isinstance(s, jax.sharding.Sharding) else None for s in group) for group in given)
    return ins, outs


def with_leading_jit_operands(params: dict[str, Any], count: int) -> dict[str, Any]:
    """A jit's parameters after `count` operands without sharding or layout are put before its own."""
    more = {"in_shardings": _left_open(), "in_layouts": None, "donated_invars": False}
    return {**params, **{name: (value,) * count + tuple(params[name]) for name, value in more.items()}}


@lru_cache
def _left_open() -> Any:
    """What a jit has for the sharding of an operand whose sharding was not given."""
    return jax.make_jaxpr(jax.jit(lambda x: x))(0.0).jaxpr.eqns[0].params["in_shardings"][0]


def quick_compilation() -> dict[str, Any] | None:
    """Compiler options that favour compile time over speed, for programs that run a few times."""
    if jax.default_backend() != "cpu":
        return None
    older = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
    return {"xla_backend_optimization_level": 0, **older}


def called_jaxpr(equation: Any) -> Any:
    """The jaxpr of a call. The parameter's name differs between primitives, that of composite between versions too."""
    params = call_params(equation)
    return next(params[name] for name in ("jaxpr", "call_jaxpr", "call", "fwd_jaxpr") if name in params)


def call_params(equation: Any) -> dict[str, Any]:
    """The parameters of a call; those of the newer `jax.checkpoint` are in its hijax primitive."""
    return equation.params["_prim"].params if is_hijax_checkpoint(equation) else equation.params


def checkpointed(equation: Any, fun: Callable) -> Callable:
    """`jax.checkpoint` of a function, with the policy that a checkpoint's equation has."""
    params = call_params(equation)
    return jax.checkpoint(fun, policy=params["policy"], prevent_cse=bool(params.get("prevent_cse", True)))


def compiler_metadata(equation: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an `xla_metadata_call` tells the compiler, of the function and of its derivative."""
    params = {name: value for name, value in equation.params.items() if name != "jaxpr"}
    if "ad_metadata" not in params:  # JAX 0.10.2
        return params, params
    own, derivative = params["xla_metadata"], params["ad_metadata"]
    return dict(own), dict(own if derivative == "same" else derivative)


def is_hijax_checkpoint(equation: Any) -> bool:
    """Whether an equation is a `jax.checkpoint` as JAX makes it under its flag `jax_remat3`."""
    return type(equation.params.get("_prim")) is ad_checkpoint.RematTraced


class ScanGroups(NamedTuple):
    """How many operands of a scan are loop-invariant constants, and how many are the carry."""

    consts: int
    carry: int


def scan_groups(equation: Any) -> ScanGroups:
    params = equation.params
    if "num_consts" in params:
        return ScanGroups(params["num_consts"], params["num_carry"])
    groups = params["ft_in"].update(list(equation.invars)).unpack()
    consts, carry = (len(jax.tree.leaves(list(group))) for group in groups[:2])
    return ScanGroups(consts, carry)


def with_leading_scan_constants(params: dict[str, Any], count: int) -> dict[str, Any]:
    """A scan's parameters after `count` loop-invariant operands are put before its own."""
    if "num_consts" in params:
        return {**params, "num_consts": params["num_consts"] + count}
    consts, *others = params["ft_in"].unpack()  # JAX 0.12
    one_leaf = _groups_of_a_scan().unpack()[0].unpack()[0]
    tuple_of = type(_groups_of_a_scan())
    return {**params, "ft_in": tuple_of(tuple_of(*[one_leaf] * count, consts), *others)}


@lru_cache
def _groups_of_a_scan() -> Any:
    """The operand groups of a scan that has one loop-invariant operand."""
    scan = jax.make_jaxpr(lambda c: jax.lax.scan(lambda h, _: (h * c, None), 0.0, None, length=1))(1.0)
    return scan.jaxpr.eqns[-1].params["ft_in"]


def axes_of_vmap() -> frozenset[Any]:
    """The mesh axes along which the `vmap`s with spmd_axis_name that are being traced lay out their examples."""
    return frozenset(jax_core.get_axis_env().spmd_axis_names)


def branch_platforms(equation: Any) -> tuple | None:
    """The platforms of each branch of `lax.platform_dependent` (None: all others); None for an ordinary cond."""
    return equation.params.get("branches_platforms")


def is_for_this_platform(names: tuple | None, platforms: tuple) -> bool:
    """Whether a branch of `lax.platform_dependent`, for these platforms (None: all that no branch names), is the one
    that the default backend takes."""
    backend = jax.default_backend()
    here = {"cuda", "rocm", "gpu"} if backend == "gpu" else {backend}
    if names is None:
        return not any(here & set(others or ()) for others in platforms)
    return bool(here & set(names))


def switch_branch(index: Any, branches: Sequence[Callable], platforms: tuple | None, *operands: Any) -> Any:
    """`lax.switch`; with `platforms`, `lax.platform_dependent`, where each platform compiles only its own branch."""
    if platforms is None:
        return jax.lax.switch(index, branches, *operands)
    pairs = list(zip(branches, platforms, strict=True))
    named = {name: branch for branch, names in pairs for name in names or ()}
    default = next((branch for branch, names in pairs if names is None), None)
    return jax.lax.platform_dependent(*operands, default=default, **named)


def hijax_gives(primitive: Any, method: str) -> bool:
    """Whether the class of a `jax.experimental.hijax` primitive defines a method itself: neither inherits it nor lets
    JAX derive it from another."""
    base = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive  # JAX 0.12, JAX 0.10.2
    derived = (*getattr(hijax, "vjp_from_jvp", ()), *getattr(hijax, "vjp_from_lin", ()))
    return getattr(type(primitive), method) not in (getattr(base, method), *derived)


trace_context = config.trace_context  # the settings that what is traced depends on, as a key


def policy_saves(policy: Callable, equation: Any) -> bool:
    """Whether a `jax.checkpoint` policy lets an equation's outputs be saved."""
    primitive, params = equation.primitive, equation.params
    if type(params.get("_prim")).__name__ in ("CheckpointName", "CheckpointNameFwd"):  # under the flag jax_remat3
        primitive, params = ad_checkpoint.name_p, params["_prim"].params
    verdict = policy(primitive, *operand_avals(equation), **params)
    # Policies answer with a bool or with a marker; those that offload name where to, and count as saving.
    return verdict is True or type(verdict).__name__ in ("SaveableType", "Offloadable")


def coordination_client() -> Any:
    """The client of JAX's coordination service, by which processes exchange texts; None if there is only one."""
    return distributed.global_state.client
