"""The one file that touches `jax.extend` and the differences between JAX versions.

A *jaxpr* is JAX's record of a traced function: a list of *equations*, each a primitive applied to operands
(`invars`, variables or literals) giving outputs (`outvars`). Everything else in fnbackprop reads jaxprs through
the functions here.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.experimental import hijax
from jax.extend import core, source_info_util

Literal = core.Literal
DropVar = core.DropVar
Primitive = core.Primitive
Trace, Tracer = jax.core.Trace, jax.core.Tracer
set_current_trace, take_current_trace = core.set_current_trace, core.take_current_trace
evaluate = core.jaxpr_as_fun  # closed jaxpr -> a function of flat operands


class Traced(NamedTuple):
    """A traced function: its closed jaxpr and the tree of its output."""

    closed: Any
    out_tree: Any


def trace(fun: Callable, args: Sequence[Any]) -> Traced:
    """Trace `fun(*args)` to a closed jaxpr. `args` are arrays, tracers or avals; the output is any pytree."""
    out_tree = None

    def flat_fun(*flat):
        nonlocal out_tree
        leaves, out_tree = jax.tree.flatten(fun(*flat))
        return leaves

    flat_fun.__name__ = getattr(fun, "__name__", "fun")
    flat_fun.__wrapped__ = fun  # JAX's messages then name the user's function and line
    closed = jax.make_jaxpr(flat_fun)(*args)
    return Traced(closed, out_tree)


def trace_avals(fun: Callable, avals: Sequence[Any]) -> Any:
    """The closed jaxpr of `fun`, a function of flat arrays that returns a flat list, at these avals."""
    return jax.make_jaxpr(fun)(*avals)


def varying_axes(aval: Any) -> frozenset[Any]:
    """The mesh axes along which a value differs from device to device inside `shard_map`, where its type says so."""
    return aval.manual_axis_type.varying


def aval_of(x: Any) -> Any:
    """The aval of an array, tracer or Python scalar."""
    return jax.typeof(x)


def zeros_like_stack(x: Any, length: int) -> Any:
    """A stack of `length` zeros like `x`; keys are stacked as copies."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
        return jax.lax.broadcast(x, (length,))
    return jax.lax.full((length, *x.shape), 0, x.dtype)


def concrete(x: Any) -> Any:
    """The number behind a value, or None where it is traced."""
    return x.to_concrete_value() if isinstance(x, Tracer) else x


def is_inexact(aval: Any) -> bool:
    """Whether a value of this aval can carry a cotangent: a real or complex floating dtype."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, np.inexact)


def is_var(atom: Any) -> bool:
    """Whether an operand is a variable, and not a literal."""
    return not isinstance(atom, Literal)


def read(env: dict, atom: Any) -> Any:
    """An operand's value: a literal's own, a variable's from `env`."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def read_array(env: dict, atom: Any) -> Any:
    """As `read`, a literal as an array with a shape, for code that asks for one."""
    return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, Literal) else env[atom]


def operand_avals(equation: Any) -> list[Any]:
    return [atom.aval for atom in equation.invars]


def output_avals(equation: Any) -> list[Any]:
    return [var.aval for var in equation.outvars]


# ---------------------------------------------------------------- equations


def bind(equation: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Apply an equation's primitive to new operands; always a list of outputs."""
    primitive = equation.primitive
    out = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return out if primitive.multiple_results else (out,)


class source_of:  # a class, because a generator enters slower
    """The user's `named_scope`, source line and context managers, for what is emitted on an equation's behalf."""

    __slots__ = ("source", "context")

    def __init__(self, equation: Any):
        info = equation.source_info
        outer = source_info_util.current_name_stack()
        stack = outer + info.name_stack if outer.stack else info.name_stack
        self.source = source_info_util.user_context(info.traceback, name_stack=stack)
        self.context = equation.ctx.manager

    def __enter__(self) -> None:
        self.source.__enter__()
        self.context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        self.source.__exit__(*error)


def source_line(equation: Any) -> str:
    """Where the user wrote an equation: "file:line:column (function)"."""
    return source_info_util.summarize(equation.source_info)


def all_primitives() -> set[Any]:
    """Every primitive of the installed JAX that is loaded, whoever defined it."""
    import gc

    return {x for x in gc.get_objects() if isinstance(x, Primitive)}


def inner_jaxprs(equation: Any) -> list[Any]:
    """The jaxprs among an equation's parameters (bodies, branches), as closed or open jaxprs."""
    return list(core.jaxprs_in_params(equation.params))


def jit_shardings(equation: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Where the operands and the outputs of a jit must lie; None where that was left open."""
    given = (equation.params.get(name, ()) for name in ("in_shardings", "out_shardings"))
    ins, outs = (tuple(s if isinstance(s, jax.sharding.Sharding) else None for s in group) for group in given)
    return ins, outs


def changed(
    jaxpr: Any, constvars: Sequence[Any], consts: Sequence[Any], invars: Sequence[Any], eqns: Sequence[Any]
) -> Any:
    """A jaxpr with other constants, operands (those that are new come first) and equations, closed."""
    info = jaxpr.debug_info
    if info.arg_names is not None:
        info = info._replace(arg_names=("",) * (len(invars) - len(info.arg_names)) + tuple(info.arg_names))
    parts = {"constvars": list(constvars), "invars": list(invars), "eqns": list(eqns), "debug_info": info}
    if hasattr(jaxpr, "with_consts"):  # JAX 0.12: a jaxpr is closed
        return jaxpr.replace(**parts, consts=list(consts))
    return core.ClosedJaxpr(jaxpr.replace(**parts), list(consts))


def with_leading_jit_operands(params: dict[str, Any], count: int) -> dict[str, Any]:
    """A jit's parameters where it has so many more operands before the others, of which nothing is said."""
    more = {"in_shardings": _left_open(), "in_layouts": None, "donated_invars": False}
    return {**params, **{name: (value,) * count + tuple(params[name]) for name, value in more.items()}}


@lru_cache
def _left_open() -> Any:
    """What a jit has for the sharding of an operand of which nothing was said."""
    return jax.make_jaxpr(jax.jit(lambda x: x))(0.0).jaxpr.eqns[0].params["in_shardings"][0]


def counts_operands(jaxpr: Any) -> bool:
    """Whether an effect of a jaxpr names an operand by its number, as that of a mutable reference does."""
    return any(hasattr(effect, "input_index") for effect in jaxpr.effects)


def is_effect_free(closed: Any) -> bool:
    return not closed.jaxpr.effects


# ---------------------------------------------------------------- version differences

# Which cotangent JAX gives `cholesky`: that of the lower triangle, which it reads; before, that of a hermitian matrix.
CHOLESKY_READS_THE_LOWER_TRIANGLE = jax.__version_info__ >= (0, 11)


def quick_compilation() -> dict[str, Any] | None:
    """Options of `jax.jit` for code that is soon compiled rather than fast, for programs that run a few times."""
    if jax.default_backend() != "cpu":
        return None
    older = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
    return {"xla_backend_optimization_level": 0, **older}


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
    """A scan's parameters where it has so many more loop-invariant operands before the others."""
    if "num_consts" in params:
        return {**params, "num_consts": params["num_consts"] + count}
    consts, *others = params["ft_in"].unpack()  # JAX 0.12
    one_leaf = _groups_of_a_scan().unpack()[0].unpack()[0]
    tuple_of = type(_groups_of_a_scan())
    return {**params, "ft_in": tuple_of(tuple_of(*[one_leaf] * count, consts), *others)}


@lru_cache
def _groups_of_a_scan() -> Any:
    """Those of a scan that has one loop-invariant operand."""
    scan = jax.make_jaxpr(lambda c: jax.lax.scan(lambda h, _: (h * c, None), 0.0, None, length=1))(1.0)
    return scan.jaxpr.eqns[-1].params["ft_in"]


def branch_platforms(equation: Any) -> tuple | None:
    """Of `lax.platform_dependent`, the platforms of each branch (None: all others); of another cond, None."""
    return equation.params.get("branches_platforms")


def switch(index: Any, branches: Sequence[Callable], platforms: tuple | None, *operands: Any) -> Any:
    """`lax.switch`, or `lax.platform_dependent`, of which a platform compiles its own branch alone."""
    if platforms is None:
        return jax.lax.switch(index, branches, *operands)
    pairs = list(zip(branches, platforms, strict=True))
    named = {name: branch for branch, names in pairs for name in names or ()}
    default = next((branch for branch, names in pairs if names is None), None)
    return jax.lax.platform_dependent(*operands, default=default, **named)


# ---------------------------------------------------------------- custom derivatives


class Closed(NamedTuple):
    """An open jaxpr with its constants, for the engine, which reads no more of a closed jaxpr than these."""

    jaxpr: Any
    consts: Sequence[Any]

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class CustomJvp(NamedTuple):
    """The user's JVP of a `custom_jvp_call` equation, as a jaxpr.

    closed: (operands, tangents) -> (outputs, output tangents). Closed-over constants come first among the equation's
        operands and are not among these.
    tangents: the operands that have a tangent; tangents_out: for each output the position of its tangent, or None.
    """

    closed: Closed
    consts: int
    tangents: tuple[int, ...]
    tangents_out: tuple[int | None, ...]


class IllTyped(Exception):
    """JAX's record of a function is not well-typed, but running the function on values may go well."""


def custom_jvp_jaxpr(equation: Any, active: Sequence[bool]) -> CustomJvp:
    params = equation.params
    consts, symbolic = params["num_consts"], params["symbolic_zeros"]
    # An inactive operand's tangent is a symbolic zero if the user asked for these, else zeros.
    given = [on or not symbolic for on in active[consts:]]
    jaxpr, values, zero_out = params["jvp_jaxpr_fun"].call_wrapped(*(not on for on in given))
    # JAX 0.12: constants are the first operands until values are attached.
    closed = jaxpr.with_consts(values) if hasattr(jaxpr, "with_consts") else Closed(jaxpr, values)
    if any(v.aval.shape != w.aval.shape for v, w in zip(equation.outvars, jaxpr.outvars, strict=False)):
        # of a function under vmap whose result does not depend on what is mapped, though its JVP does
        raise IllTyped(
            f"the JVP of a custom_jvp function has another shape than its result, at {source_line(equation)}"
        )
    positions = iter(range(len(zero_out), len(jaxpr.outvars)))
    found = [None if zero else next(positions) for zero in zero_out]
    tangents_out = (i if i is not None and is_inexact(jaxpr.outvars[i].aval) else None for i in found)
    tangents = (consts + i for i, on in enumerate(given) if on)
    return CustomJvp(closed, consts, tuple(tangents), tuple(tangents_out))


def zero_tangent(x: Any) -> Any:
    """The zero tangent of a value: of its own dtype, or float0."""
    aval = aval_of(x)
    return zeros(aval) if is_inexact(aval) else np.zeros(aval.shape, jax.dtypes.float0)


def _jvp_function(jvp: Any, symbolic: bool) -> Callable:
    """The user's JVP from what a trace is handed; a zero tangent is None on both sides."""

    def call(primals, tangents):
        pairs = zip(primals, tangents, strict=True)
        tangents = [absent(symbolic, aval_of(p)) if t is None else t for p, t in pairs]
        out = jvp.call_wrapped(*primals, *tangents)
        half = len(out) // 2
        return out[:half], [None if isinstance(t, SymbolicZero) else t for t in out[half:]]

    return call


class CustomVjp(NamedTuple):
    """The user's forward and backward of a `custom_vjp_call` equation."""

    forward: Callable  # (operands, active) -> (residuals, outputs)
    backward: Callable  # (residuals, output cotangents) -> operand cotangents, None for zero


def custom_vjp_functions(equation: Any) -> CustomVjp:
    params = equation.params
    _, fwd, bwd = equation.primitive.get_bind_params(params)["subfuns"]
    return _vjp_functions(fwd, bwd, params["out_trees"])


def _vjp_functions(fwd: Any, bwd: Any, out_trees: Callable) -> CustomVjp:
    def forward(operands, active):
        flat = fwd.call_wrapped(*(item for pair in zip(operands, active, strict=True) for item in pair))
        _, residual_tree, forwarded = out_trees()  # a residual that is an operand is given as its position
        computed = residual_tree.num_leaves - sum(i is not None for i in forwarded)
        fresh = iter(flat[:computed])
        residuals = [next(fresh) if i is None else operands[i] for i in forwarded]
        return residuals, flat[computed:]

    return CustomVjp(forward, _vjp_backward(bwd))


def _vjp_backward(bwd: Any) -> Callable:
    def backward(residuals, cotangents):
        out = bwd.call_wrapped(*residuals, *cotangents)
        if isinstance(out, tuple):  # JAX 0.12: (cotangents, logs)
            out = out[0]
        return [None if _is_zero(ct) else ct for ct in out]

    return backward


class CustomLinear(NamedTuple):
    """A `custom_lin` equation, whose operands are the residuals of a user's forward, then tangents."""

    residuals: int  # how many
    backward: Callable  # (residuals, output cotangents) -> tangents' cotangents, None for zero
    symbolic: bool  # whether the user asked for symbolic zeros


def custom_linear_map(equation: Any) -> CustomLinear:
    params = equation.params
    pull = _vjp_backward(params["bwd"])

    def backward(residuals, cotangents):
        pairs = zip(pull(residuals, cotangents), params["in_zeros"], strict=True)
        return [ct for ct, zero in pairs if not zero]

    return CustomLinear(params["num_res"], backward, params["symbolic_zeros"])


def _is_zero(ct: Any) -> bool:
    """Whether a cotangent handed back by a user's backward stands for zero: symbolic, or of an integer operand."""
    if ct is None or isinstance(ct, SymbolicZero) or type(ct).__name__ == "Zero":
        return True
    return getattr(ct, "dtype", None) == jax.dtypes.float0


def absent(symbolic: bool, aval: Any) -> Any:
    """What a user's derivative rule is given for a tangent or cotangent that is zero: zeros, or a symbolic zero."""
    if symbolic:
        return SymbolicZero(aval.to_tangent_aval())
    return zeros(aval) if is_inexact(aval) else np.zeros(aval.shape, jax.dtypes.float0)


def new_custom_jvp(jvp: Any, operands: Sequence[Any], symbolic_zeros: bool) -> Callable:
    """A `custom_jvp` function from the JVP that JAX hands to a trace, which may be called only once."""
    avals = [aval_of(x) for x in operands]
    inexact = [is_inexact(aval) for aval in avals]
    count = len(avals)

    def both(*flat):
        given = iter(flat[count:])
        tangents = [next(given) if on else None for on in inexact]
        outputs, tangents_out = _jvp_function(jvp, symbolic_zeros)(flat[:count], tangents)
        pairs = zip(outputs, tangents_out, strict=True)
        return [*outputs, *(absent(False, aval_of(y)) if t is None else t for y, t in pairs if is_inexact(aval_of(y)))]

    closed = trace_avals(both, [*avals, *(a for a, on in zip(avals, inexact, strict=True) if on)])
    outputs = [v.aval for v in closed.jaxpr.outvars]
    half = next(n for n in range(len(outputs) + 1) if n + sum(map(is_inexact, outputs[:n])) == len(outputs))

    def run(primals, tangents):
        out = evaluate(closed)(*primals, *(t for t, on in zip(tangents, inexact, strict=True) if on))
        given = iter(out[half:])
        return out[:half], [next(given) if is_inexact(aval) else absent(False, aval) for aval in outputs[:half]]

    fun = jax.custom_jvp(lambda *xs: run(xs, [zeros(aval) for aval in avals])[0])
    fun.defjvp(run)
    return fun


def new_custom_vjp(
    fwd: Any, bwd: Any, operands: Sequence[Any], active: Sequence[bool], out_trees: Callable
) -> Callable:
    """A `custom_vjp` function from the forward and backward that JAX hands to a trace, each to be called only once."""
    custom = _vjp_functions(fwd, bwd, out_trees)
    traced = trace(lambda *xs: custom.forward(xs, active), operands)

    def forward(*xs):
        residuals, outputs = traced.out_tree.unflatten(evaluate(traced.closed)(*xs))
        return outputs, residuals

    fun = jax.custom_vjp(lambda *xs: forward(*xs)[0])
    fun.defvjp(forward, lambda residuals, cts: tuple(custom.backward(residuals, cts)))
    return fun


def hijax_gives(primitive: Any, method: str) -> bool:
    """Whether the class of a `jax.experimental.hijax` primitive has a method of its own: not its base's, nor one that
    JAX derives from another."""
    base = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive  # JAX 0.12, JAX 0.10.2
    derived = (*getattr(hijax, "vjp_from_jvp", ()), *getattr(hijax, "vjp_from_lin", ()))
    return getattr(type(primitive), method) not in (getattr(base, method), *derived)


class LinearCall(NamedTuple):
    """The function of a `linear_call` equation and the user's transpose, each of (residual arguments, linear ones).

    closed: the function on flat operands, of which the last `count` are the linear ones.
    """

    closed: Any
    count: int
    function: Callable
    transpose: Callable


def linear_call_functions(equation: Any) -> LinearCall:
    params = equation.params
    closed, consts = params["callee"], params["num_callee_consts"]
    count = len(equation.invars) - consts - params["num_res"]

    def function(known, linear):
        return evaluate(closed)(*known, *linear)

    def transpose(known, cotangents):
        jaxpr, values = params["transpose_thunk"]()
        return evaluate(close(jaxpr))(*values, *known[consts:], *cotangents)

    return LinearCall(closed, count, function, transpose)


def policy_saves(policy: Callable, equation: Any) -> bool:
    """Whether a `jax.checkpoint` policy lets an equation's outputs be saved."""
    verdict = policy(equation.primitive, *operand_avals(equation), **equation.params)
    # Policies answer with a bool or with a marker; those that offload name where to, and count as saving.
    return verdict is True or type(verdict).__name__ in ("SaveableType", "Offloadable")


def zeros(aval: Any, lead: tuple[int, ...] = ()) -> Any:
    """Zeros of an aval's shape, after leading axes `lead`, and dtype, typed as it is over the axes of `shard_map`."""
    return _manual_like(jax.lax.full((*lead, *aval.shape), 0, aval.dtype), aval.manual_axis_type)


def _manual_like(x: Any, manual: Any) -> Any:
    """A constant as a value of this manual type: varying, unreduced and reduced over the type's axes."""
    x = jax.lax.pcast(x, tuple(manual.varying | manual.unreduced), to="varying")
    x = jax.lax.pcast(x, tuple(manual.unreduced), to="unreduced")
    return jax.lax.pcast(x, tuple(manual.reduced), to="reduced")


def cotangent_aval(aval: Any) -> Any:
    """The type of a value's cotangent: that of the value, but reduced and unreduced exchanged."""
    return aval.to_ct_aval()


def zero_cotangent(aval: Any) -> Any:
    """The zero cotangent of a value of this aval."""
    return zeros(cotangent_aval(aval))


def add(x: Any, y: Any) -> Any:
    """x + y of one type, in the mesh of that type: JAX refuses it where the context has the mesh in another mode."""
    mesh, current = aval_of(y).sharding.mesh, jax.sharding.get_abstract_mesh()
    if mesh.empty or current.empty or mesh == current:
        return jax.lax.add(x, y)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.lax.add(x, y)


def barrier(values: Any) -> Any:
    """`lax.optimization_barrier` of a pytree, one for each manual type: JAX 0.10.2 would give all of them one type."""
    leaves, tree = jax.tree.flatten(values)
    types = [aval_of(leaf).manual_axis_type for leaf in leaves]
    for manual in dict.fromkeys(types):
        alike = [i for i, other in enumerate(types) if other == manual]
        for i, leaf in zip(alike, jax.lax.optimization_barrier([leaves[i] for i in alike]), strict=True):
            leaves[i] = leaf
    return tree.unflatten(leaves)


def close(jaxpr: Any) -> Any:
    """An open jaxpr without constants (remat's) as a closed one, the same object at each call."""
    return jaxpr if hasattr(jaxpr, "consts") else _closed(jaxpr)


@lru_cache(maxsize=4096)
def _closed(jaxpr: Any) -> Any:
    return core.ClosedJaxpr(jaxpr, ())
