"""`compare`: the manual gradient beside the automatic one and beside differences of the function."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fnbackprop import trees
from fnbackprop.backprop.registry import MissingRule

from .equations.kinks import find_kinks
from .equations.walk import Audit
from .gradient_sources import gradient_function, is_inexact, shaken
from .leaves import compare_leaf, relative_error, rounding_floor
from .numeric.arbitration import DISPUTED, settled, settled_value
from .numeric.differences import compare_numeric
from .program import Program, RoundingFacts, facts_of, is_array, make_program, trace_program, unused_inputs
from .properties import check_contract
from .reference.float64 import is_another_branch, reference_gradients
from .results import Check, Comparison, LeafComparison, Verdict
from .show.status_line import Progress, first_line

NOISE_SAMPLES, MORE_SAMPLES = 2, 8  # the latter where no reference tells of rounding too
ODD = (Verdict.KINK, Verdict.JUMP, Verdict.DOMAIN_EDGE, Verdict.UNBOUNDED, Verdict.NON_FINITE)


def compare(
    fun: Callable,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool | None = None,
    against: Callable | None = None,
    directions: int = 4,
    leaf_directions: bool | None = None,
    rules: bool = True,
    reference: bool = True,
    environment: bool = False,
    float64: bool = False,
    intended: Sequence[str] = (),
    seed: int = 0,
    progress: bool | None = None,
) -> Comparison:
    """Compare the manual gradient of `fun` at `args` with the automatic one and with differences of `fun`.

    Each leaf's error, the norm of manual - reference over that of the reference, is held against what rounding
    explains. The reference is the automatic gradient of the traced program run again in float64, with its masks,
    indices and random numbers as they were. Allowed is the largest of
    - 4 (u sqrt(n) + u), where u is the unit roundoff of the coarsest dtype in the program and n the number of terms in
      its longest sum;
    - 3 times the automatic gradient's own distance from the reference;
    - 2 times (without a reference, 4 times) how far it moves when the last bit of every input changes; where JAX
      refuses to differentiate, how far the manual one does;
    - in float64, for which there is no finer reference, 4 times its distance from itself in float32, scaled to float64.
    There is no absolute tolerance. All is compiled, with matrix products in their highest precision, so that the
    mathematics is compared and not the shortcuts of a device.

    Beside that, every equation's rule, and every rule of a `custom_vjp` or `custom_jvp`, is held against the automatic
    derivative in place, with the operands that it has in this program (see `equations/`).

    Args:
      fun: a function of real scalar value, or of `(value, aux)`.
      *args: its arguments, as for `jax.grad`. Arrays are traced; anything else is passed as it is.
      argnums: which arguments are differentiated.
      has_aux: whether `fun` returns a pair; by default, seen from what it returns.
      against: another function that should have the same value and gradient at the same arguments: then the manual
        gradient of `fun` is compared with the automatic one of `against`.
      directions: how many Gaussian directions the numeric evaluator takes; 0 leaves it out.
      leaf_directions: whether it takes one more for each leaf alone; None: as far as that takes some seconds.
      rules: whether each equation's rule is asked in place.
      reference: whether the reference is float64; otherwise it is the automatic gradient as it is.
      environment: also compare under vmap, remat, without jit, with loops unrolled, and sharded (L4).
      float64: compare the same function on float64 copies of the arguments: rounding hides nothing then. A function
        that fixes its dtypes itself gains nothing by it.
      intended: names of the user's functions whose rule differs from the derivative of their primal on purpose.
      seed: of the directions and of the Gaussian cotangents.
      progress: whether a line on the terminal says what is being done; None: if it is a terminal.

    Returns:
      a Comparison: print it, ask it `.ok`, or `.require()` it in a test.
    """
    options = {
        "argnums": argnums, "has_aux": has_aux, "directions": directions, "leaf_directions": leaf_directions,
        "rules": rules, "reference": reference, "environment": environment, "intended": intended, "seed": seed,
        "progress": progress, "against": against,
    }  # fmt: skip
    if float64:
        with jax.enable_x64(True):
            return compare(fun, *_with_bits(args, 64), **options)
    if isinstance(intended, str):
        raise TypeError(f"intended must be a sequence of names, like ({intended!r},).")
    if against is not None:
        from .equations.alignment import compare_two

        return compare_two(fun, against, args, argnums, has_aux, directions, seed)
    program = make_program(fun, args, argnums, has_aux)
    with jax.default_matmul_precision("highest"), Progress(progress) as say:
        return _Comparing(program, say, **{k: v for k, v in options.items() if k in _Comparing.OPTIONS}).run()


class _Comparing:
    """One comparison, step by step."""

    OPTIONS = ("directions", "leaf_directions", "rules", "reference", "environment", "intended", "seed")

    def __init__(self, program: Program, say: Callable[[str], None], **options: Any):
        self.program, self.say, self.options = program, say, options
        self.traced = trace_program(program)
        self.facts = facts_of(self.traced)
        self.notes: list[str] = []
        self.unasked = ""  # why the rules could not be asked in place

    def run(self) -> Comparison:
        program, options = self.program, self.options
        self.say("the manual gradient")
        manual_function = gradient_function(program, "manual")
        value, manual = manual_function(program.inputs, program.others, np.float32(1))
        self.say("the automatic gradient")
        automatic_value, automatic, noise = self._automatic(manual_function, (value, manual))
        problems = structure_problems(manual, automatic)
        floor = rounding_floor(self.facts)
        value_floor = max(floor, 4 * noise[0])
        found = compare_leaf("(value)", value, automatic_value, floor, noise[0])
        if problems:
            return self._comparison(found, (), None, problems)
        leaves = self._leaves(manual, automatic, noise[1:], floor, (value, value_floor))
        audit = self._audit(leaves)
        unasked = (Check("rules in place", Verdict.SKIPPED, self.unasked),) if self.unasked else ()
        plain = audit.value if audit else jax.jit(program.function)(program.inputs, program.others)
        self.say("the contract")
        allowed = [leaf.allowed if math.isfinite(leaf.allowed) else floor for leaf in leaves]
        bounds = [bound for leaf, bound in zip(leaves, allowed, strict=True) if leaf.verdict is not Verdict.SKIPPED]
        contract = check_contract(program, manual_function, (value, manual), plain, (value_floor, bounds))
        numeric, leaves, intended = self._numeric(manual, automatic, leaves, allowed, (value, value_floor), audit)
        environment = ()
        if options["environment"]:
            from .environment import check_environment

            environment = check_environment(program, self.traced, manual, bounds, self.say)
        if self.refused:
            leaves = tuple(_by_differences_alone(leaf, numeric) for leaf in leaves)
        parts = {"contract": (*contract, *unasked), "environment": environment, "intended": tuple(intended)}
        if audit:
            self.notes += audit.notes
            parts |= {"equations": audit.found, "audited": audit.audited}
        return self._comparison(settled_value(found, contract), leaves, numeric, (), **parts)

    def _comparison(self, value, leaves, numeric, problems, **parts) -> Comparison:
        return Comparison(
            name=self.program.name, value=value, leaves=leaves, numeric=numeric, problems=problems,
            tolerance=tolerance_in_words(self.facts), seed=self.options["seed"], notes=tuple(self.notes), **parts,
        )  # fmt: skip

    def _automatic(self, manual_function: Callable, manual: tuple[Any, Any]) -> tuple[Any, Any, list[float]]:
        """The automatic value, gradient and noise; the manual ones where JAX refuses to differentiate."""
        program, self.refused = self.program, False
        function, backward = gradient_function(program, "automatic"), "automatic"
        try:
            result = function(program.inputs, program.others, np.float32(1))
        except Exception as error:
            self.refused = True
            self.notes.append(f"jax.grad refuses: {first_line(error)}")
            function, backward, result = manual_function, "manual", manual
        noise = measured_noise(program, self.facts, function, result)
        if self.facts.roundoff < 1e-15:
            noise = list(map(max, noise, narrow_noise(program, backward, result)))
        return *result, noise

    def _leaves(
        self, manual: Any, automatic: Any, noise: list[float], floor: float, value: tuple[Any, float]
    ) -> tuple[LeafComparison, ...]:
        program = self.program
        paths = leaf_paths(program, automatic)
        references = self._references(len(noise), value)
        sizes = _sizes(program)
        parts = zip(paths, jax.tree.leaves(manual), jax.tree.leaves(automatic), noise, references, strict=True)
        leaves = (
            compare_leaf(path, ours, theirs, floor, moved, ref, sizes) for path, ours, theirs, moved, ref in parts
        )
        unused = unused_inputs(self.traced)
        said = "unused: its gradient is exactly zero"
        return tuple(
            dataclasses.replace(leaf, reason=said) if i in unused and leaf.error == 0 and leaf.norm == 0 else leaf
            for i, leaf in enumerate(leaves)
        )

    def _references(self, count: int, value: tuple[Any, float]) -> list[Any]:
        """The gradient in float64, leaf by leaf; None where there is none."""
        active = [i for i, on in enumerate(self.traced.active) if on]
        references: list[Any] = [None] * count
        if not self.options["reference"] or self.refused or self.facts.roundoff < 1e-15:
            return references
        self.say("the reference in float64")
        try:
            found = reference_gradients(self.traced.closed, self.traced.operands, active, self.traced.users_mode)
            refused = is_another_branch(found[0], *value)
        except Exception as error:  # what is the user's may refuse float64 in any way
            refused = first_line(error)
        if refused:
            self.notes.append(f"no float64 reference: {refused}")
            return references
        for i, reference in zip(active, found[1], strict=True):
            references[i] = reference
        return references

    def _audit(self, leaves: Sequence[LeafComparison]) -> Audit | None:
        """Every rule in place; once more and thoroughly if a leaf is wrong and no equation was found."""
        if not self.options["rules"]:
            return None
        settings = {"seed": self.options["seed"], "intended": self.options["intended"], "say": self.say}
        try:
            audit = Audit(self.traced, **settings).run()
            if not audit.found and any(leaf.verdict is Verdict.FAIL for leaf in leaves):
                audit = Audit(self.traced, thorough=True, **settings).run()
        except MissingRule:
            raise
        except Exception as error:  # the user's code may refuse to be run equation by equation
            self.unasked = first_line(error)
            return None
        return audit

    def _numeric(self, manual, automatic, leaves, allowed, value, audit):
        options = self.options
        if not options["directions"]:
            return None, leaves, list(audit.replaced) if audit else []
        self.say("differences of the function")
        disputed = [i for i, leaf in enumerate(leaves) if leaf.verdict in DISPUTED]
        numeric, each, odd, intended, notes = compare_numeric(
            self.program, self.traced, self.facts, manual, automatic, directions=options["directions"],
            seed=options["seed"], allowed=allowed, value=value, disputed=disputed,
            replaced=list(audit.replaced) if audit else [], leaves=options["leaf_directions"],
        )  # fmt: skip
        self.notes += notes
        if numeric.verdict in ODD or any(leaf.verdict is Verdict.NON_FINITE for leaf in leaves):
            self.notes += find_kinks(self.traced)
        if each:
            bounds = [math.nan if one is None else one.bound for one in each]
            leaves = tuple(dataclasses.replace(leaf, bound=b) for leaf, b in zip(leaves, bounds, strict=True))
        leaves, said = settled(leaves, each, odd, numeric)
        self.notes += said
        return numeric, leaves, intended


def _by_differences_alone(leaf: LeafComparison, numeric: Any) -> LeafComparison:
    """A leaf of a function that JAX does not differentiate."""
    if leaf.verdict is not Verdict.PASS:
        return leaf
    if numeric is not None and numeric.verdict is Verdict.NOISE_LIMITED:
        return dataclasses.replace(leaf, verdict=Verdict.NOISE_LIMITED, reason=f"differences alone: {numeric.reason}")
    if numeric is None or numeric.verdict is not Verdict.PASS:
        return dataclasses.replace(leaf, verdict=Verdict.SKIPPED, reason="there is nothing to compare it with")
    return dataclasses.replace(leaf, reason="compared with differences alone", error=math.nan, ratio=math.nan)


def _with_bits(tree: Any, bits: int) -> Any:
    """The tree with every real number of its arrays in so many bits, two of them in a complex one."""

    def cast(leaf: Any) -> Any:
        if not is_array(leaf) or not is_inexact(leaf):
            return leaf
        return leaf.astype(f"complex{2 * bits}" if jax.numpy.iscomplexobj(leaf) else f"float{bits}")

    return jax.tree.map(cast, tree)


def measured_noise(program: Program, facts: RoundingFacts, function: Callable, reference: Any) -> list[float]:
    """How far the value and each leaf of the gradient move, relatively, when every input's last bit changes."""
    noise = [0.0] * len(jax.tree.leaves(reference))
    for sample in range(NOISE_SAMPLES if facts.roundoff > 1e-15 else MORE_SAMPLES):
        arguments = shaken((program.inputs, program.others), sample, facts.roundoff)
        moved = function(*arguments, np.float32(1))
        pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(reference), strict=True)
        noise = [max(old, _error_or_zero(*pair)) for old, pair in zip(noise, pairs, strict=True)]
    return noise


def narrow_noise(program: Program, backward: str, reference: Any) -> list[float]:
    """How far the value and each leaf are, relatively, from the same in float32, scaled to the rounding of float64.

    Shaken inputs do not show what is lost inside, where two large numbers nearly cancel. 0 where float32 says nothing:
    the program cannot be run in it, or draws or decides otherwise.
    """
    nothing = [0.0] * len(jax.tree.leaves(reference))
    try:
        with jax.enable_x64(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dtypes that are named in the program
            arguments = _with_bits((program.inputs, program.others), 32)
            found = gradient_function(program, backward)(*arguments, np.float32(1))
        if is_another_branch(float(reference[0]), found[0], 0.0):
            return nothing
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
        return [min(_error_or_zero(*pair), 1.0) * 2.0**-29 for pair in pairs]
    except Exception:  # what is the user's may refuse float32 in any way
        return nothing


def structure_problems(manual: Any, automatic: Any) -> tuple[str, ...]:
    """Empty, or what is wrong with the manual gradient's tree."""
    found, expected = jax.tree.structure(manual), jax.tree.structure(automatic)
    return () if found == expected else (f"the manual gradient has the structure {found}, the automatic {expected}",)


def _error_or_zero(found: Any, reference: Any) -> float:
    """The relative error, and 0 where there is none: an integer's gradient, or values that are not finite."""
    if reference.dtype == jax.dtypes.float0:
        return 0.0
    error = relative_error(found, reference)
    return 0.0 if math.isnan(error) else error


def _sizes(program: Program) -> dict[int, str]:
    """What a wrong factor of a whole leaf may come from: the data's axes, the number of devices."""
    sizes = {jax.device_count(): "the number of devices"} if jax.device_count() > 1 else {}
    for other in program.others:
        for axis, count in enumerate(np.shape(other)[:2]):
            if count > 1:
                sizes.setdefault(count, f"axis {axis} of the data")
    return sizes


def leaf_paths(program: Program, gradients: Any) -> list[str]:
    """The path of every leaf of the gradients, a tree for each of the program's inputs."""
    return [path for i, tree in zip(program.argnums, gradients, strict=True) for path in _paths(program, i, tree)]


def _paths(program: Program, argnum: int, tree: Any) -> list[str]:
    """The leaves' paths, with the argument's position in front where it is needed to know which is meant."""
    paths = [path for path, _ in trees.leaves_with_paths(tree)]
    if len(program.argnums) == 1 and "" not in paths:
        return paths
    return ["/".join(filter(None, (f"args[{argnum}]", path))) for path in paths]


def tolerance_in_words(facts: RoundingFacts) -> str:
    bits = round(-math.log2(facts.roundoff))
    floor = rounding_floor(facts)
    return (
        f"allowed: 4 (u sqrt(n) + u) = {floor:.1e} with u = 2^-{bits} ({facts.dtype}) and n = {facts.terms} terms in "
        f"the longest sum; or 2 to 4 times the automatic gradient's own noise, where a leaf has more"
    )
