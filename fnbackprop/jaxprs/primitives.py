"""What is known of each primitive beside its rule: one row of traits each. A primitive without a row has none of them.

Adding a primitive means one row in `TRAITS`; code asks `has(equation, Trait.EXPENSIVE)`, or takes the names of all that
have a trait with `having(Trait.EXPENSIVE)`.
"""

import gc
from enum import Enum, auto

from .types import Equation, Primitive


class Trait(Enum):
    """What can be true of a primitive."""

    # What evaluating it a second time, in the backward, means for a residual.
    EXPENSIVE = auto()  # its work exceeds what reading a saved result costs; recomputed only to keep a budget
    NEVER_RECOMPUTED = auto()  # not even then: it may give other numbers the second time, or costs a loop's work
    REDUCTION = auto()  # its result may be far smaller than its operands, all of which must be read

    # How the elements of its result depend on those of its operands.
    ELEMENTWISE = auto()  # each on those at the same place, of operands of its shape, or on a scalar

    # What a sum over the steps of a loop may do with it.
    ADDITION = auto()  # the sum of its operands
    LINEAR = auto()  # linear in its one operand, the same at each step: may be applied once, to the sum
    SUMMED_OVER_TIME = auto()  # the sum of its results over all steps is one equation on stacked operands

    # The jaxprs that it holds.
    CALL = auto()  # one jaxpr, evaluated once on the equation's own operands
    CONTROL_FLOW = auto()  # bodies or branches, evaluated a number of times or on a choice
    CUSTOM_RULE = auto()  # a function with the user's own derivative

    # Other.
    HERMITIAN = auto()  # takes its one operand for hermitian, and reads one triangle of it: the lower, or by `lower`
    OBSERVER = auto()  # gives nothing: it shows values to whoever walks the jaxpr, and stays where these are computed
    MAKES_REFERENCE = auto()  # a mutable reference
    JVP = auto()  # its JVP in JAX is missing or wrong: in a forward pass it has one that is made of its rule
    NOT_IN_FLOAT64 = auto()  # draws or iterates otherwise in float64, or holds a function that cannot be widened


(
    EXPENSIVE,
    NEVER,
    REDUCTION,
    EACH,
    ADDITION,
    LINEAR,
    SUMMED,
    CALL,
    CONTROL,
    CUSTOM,
    HERMITIAN,
    OBSERVER,
    REFERENCE,
    JVP,
    NOT_WIDENED,
) = Trait

TRAITS: dict[str, tuple[Trait, ...]] = {
    # calls and control flow
    "jit": (CALL,),
    "closed_call": (CALL,),
    "call": (CALL,),
    "eval_jaxpr": (CALL,),
    "remat2": (CALL,),
    "custom_jvp_call": (CUSTOM, EXPENSIVE),
    "custom_vjp_call": (CUSTOM, EXPENSIVE, NEVER),
    "custom_linear_solve": (EXPENSIVE, NOT_WIDENED),
    "linear_call": (NOT_WIDENED,),
    "scan": (CONTROL, EXPENSIVE, NEVER),
    "while": (CONTROL, EXPENSIVE, NEVER),
    "cond": (CONTROL, EXPENSIVE, NEVER),
    "shard_map": (CONTROL, EXPENSIVE, NEVER),
    "run_state": (REFERENCE, EXPENSIVE, NEVER),
    "new_ref": (REFERENCE,),
    "empty_ref": (REFERENCE,),
    # the recording of traces
    "observe": (OBSERVER,),
    # foreign code
    "pallas_call": (EXPENSIVE, NOT_WIDENED),
    "pure_callback": (EXPENSIVE, NEVER, NOT_WIDENED),
    "io_callback": (EXPENSIVE, NEVER, NOT_WIDENED),
    "ffi_call": (EXPENSIVE, NEVER, NOT_WIDENED),
    # elementwise
    "add": (ADDITION,),
    "add_any": (ADDITION,),
    "mul": (SUMMED,),
    "neg": (LINEAR,),
    "convert_element_type": (LINEAR,),
    "digamma": (EXPENSIVE,),
    "lgamma": (EXPENSIVE,),
    "igamma": (EXPENSIVE,),
    "igammac": (EXPENSIVE,),
    "regularized_incomplete_beta": (EXPENSIVE,),
    # shapes
    "reshape": (LINEAR,),
    "rev": (LINEAR,),
    "squeeze": (LINEAR,),
    "transpose": (LINEAR,),
    # reductions and cumulative sums
    "reduce_sum": (REDUCTION, LINEAR),
    "reduce_max": (REDUCTION,),
    "reduce_min": (REDUCTION,),
    "reduce_prod": (REDUCTION,),
    "reduce_and": (REDUCTION,),
    "reduce_or": (REDUCTION,),
    "argmax": (REDUCTION,),
    "argmin": (REDUCTION,),
    "cumsum": (EXPENSIVE,),
    "cumprod": (EXPENSIVE,),
    "cummax": (EXPENSIVE,),
    "cummin": (EXPENSIVE,),
    "cumlogsumexp": (EXPENSIVE,),
    "reduce_window": (EXPENSIVE,),
    "reduce_window_sum": (EXPENSIVE,),
    "reduce_window_max": (EXPENSIVE,),
    "reduce_window_min": (EXPENSIVE,),
    "select_and_scatter_add": (EXPENSIVE,),
    "select_and_gather_add": (EXPENSIVE,),
    # sorting, gathering and scattering
    "sort": (EXPENSIVE,),
    "top_k": (EXPENSIVE,),
    "approx_top_k": (EXPENSIVE,),
    "gather": (EXPENSIVE,),
    "scatter": (EXPENSIVE,),
    "scatter-add": (EXPENSIVE, SUMMED),
    "scatter-sub": (EXPENSIVE,),
    "scatter-mul": (EXPENSIVE,),
    "scatter-min": (EXPENSIVE,),
    "scatter-max": (EXPENSIVE,),
    # products
    "dot_general": (EXPENSIVE, SUMMED),
    "ragged_dot_general": (EXPENSIVE,),
    "conv_general_dilated": (EXPENSIVE, SUMMED),
    "fft": (EXPENSIVE,),
    # linear algebra
    "cholesky": (EXPENSIVE, HERMITIAN),
    "qr": (EXPENSIVE,),
    "geqrf": (EXPENSIVE,),
    "householder_product": (EXPENSIVE,),
    "lu": (EXPENSIVE,),
    "svd": (EXPENSIVE,),
    "eigh": (EXPENSIVE, HERMITIAN),
    "eig": (EXPENSIVE,),
    "schur": (EXPENSIVE,),
    "triangular_solve": (EXPENSIVE,),
    "tridiagonal_solve": (EXPENSIVE,),
    # sparse arrays
    **dict.fromkeys(("todense", "bcoo_todense", "bcsr_todense", "coo_todense", "csr_todense"), (EXPENSIVE,)),
    **dict.fromkeys(("bcoo_fromdense", "bcsr_fromdense", "coo_fromdense", "csr_fromdense"), (EXPENSIVE,)),
    **dict.fromkeys(("bcoo_extract", "bcsr_extract", "bcoo_sort_indices", "bcoo_sum_duplicates"), (EXPENSIVE,)),
    **dict.fromkeys(("bcoo_dot_general", "bcoo_dot_general_sampled", "bcoo_spdot_general"), (EXPENSIVE,)),
    **dict.fromkeys(("coo_matvec", "coo_matmat", "csr_matvec", "csr_matmat", "bcsr_dot_general"), (EXPENSIVE,)),
    **dict.fromkeys(("coo_spmv", "coo_spmm", "csr_spmv", "csr_spmm", "spsolve"), (EXPENSIVE,)),
    # random bits
    "random_bits": (EXPENSIVE,),
    "random_seed": (EXPENSIVE,),
    "random_wrap": (EXPENSIVE,),
    "random_unwrap": (EXPENSIVE,),
    "random_fold_in": (EXPENSIVE,),
    "random_split": (EXPENSIVE,),
    "random_gamma": (EXPENSIVE, NOT_WIDENED),
    "threefry2x32": (EXPENSIVE,),
    "rng_bit_generator": (EXPENSIVE,),
    "rng_uniform": (EXPENSIVE,),
    # collectives
    "psum": (EXPENSIVE,),
    "psum_invariant": (EXPENSIVE,),
    "unreduced_psum": (EXPENSIVE,),
    "pmax": (EXPENSIVE,),
    "pmin": (EXPENSIVE,),
    "ppermute": (EXPENSIVE,),
    "pbroadcast": (EXPENSIVE,),
    "all_gather": (EXPENSIVE,),
    "all_gather_invariant": (EXPENSIVE,),
    "all_gather_reduced": (EXPENSIVE,),
    "all_to_all": (EXPENSIVE,),
    "ragged_all_to_all": (EXPENSIVE,),
    "reduce_scatter": (EXPENSIVE,),
    "unreduced_reduce_scatter": (EXPENSIVE,),
}

_ELEMENTWISE = """
    add add_any sub mul div rem neg abs sign square one_minus_square integer_pow pow polynomial sqrt rsqrt cbrt
    max min clamp select_n exp exp2 expm1 log log2 log1p logistic sin cos tan asin acos atan atan2
    sinh cosh tanh asinh acosh atanh erf erfc erf_inv lgamma digamma polygamma zeta igamma igammac igamma_grad_a
    regularized_incomplete_beta random_gamma bessel_i0e bessel_i1e
    floor ceil round is_finite nextafter eq ne lt le gt ge and or xor not shift_left shift_right_logical
    shift_right_arithmetic population_count clz real imag conj complex convert_element_type reduce_precision copy
    stop_gradient
"""
_WITHOUT_JVP = """
    sign nextafter zeta broadcast_to clamp pmax pmin reduce reduce_window scatter scatter-mul igamma_grad_a
    eigh eig svd schur geqrf geqp3 householder_product ormqr hessenberg tridiagonal cholesky_update symmetric_product
"""
for _names, _trait in ((_ELEMENTWISE, EACH), (_WITHOUT_JVP, JVP)):
    for _name in _names.split():
        TRAITS[_name] = (*TRAITS.get(_name, ()), _trait)

_NAMES = {trait: frozenset(name for name, traits in TRAITS.items() if trait in traits) for trait in Trait}


def having(*traits: Trait) -> frozenset[str]:
    """The names of the primitives that have at least one of these traits."""
    return frozenset().union(*(_NAMES[trait] for trait in traits))


def has(equation: Equation, trait: Trait) -> bool:
    """Whether an equation's primitive has a trait."""
    return equation.primitive.name in _NAMES[trait]


def all_primitives() -> set[Primitive]:
    """Every primitive of the installed JAX that is loaded, whoever defined it; not those by which a trace observes.

    Objects are asked by their type: `isinstance` asks for `__class__`, at which those of other libraries may warn.
    """
    loaded = (x for x in gc.get_objects() if issubclass(type(x), Primitive))
    return {x for x in loaded if x.name not in _NAMES[Trait.OBSERVER]}
