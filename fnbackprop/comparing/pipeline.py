"""`compare`: the manual gradient beside the automatic one and beside differences of the function."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from fnbackprop.jaxprs.limited_loops import limited_loops

from .comparison import Comparison
from .noise import with_bits
from .program import Program, make_program, name_of
from .show.status_line import StatusLine
from .stages import STAGES, Options, Work
from .tolerance import tolerance_in_words


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

    With `against`, the same stages compare the manual gradient of `fun` with the automatic one of `against`: rules,
    properties and differences are those of `fun`, the reference and the noise those of `against`. Where the gradients
    differ, the two programs are aligned equation by equation, and the first pair that differs is named.

    Args:
      fun: a function of real scalar value, or of `(value, aux)`. One that needs values (`x[x > 1]`, `float(x)`) is
        compared as it runs at these arguments.
      *args: its arguments, as for `jax.grad`. Arrays are traced; anything else is passed as it is, the functions and
        keys among the leaves of a model as well.
      argnums: which arguments are differentiated.
      has_aux: whether `fun` returns a pair; by default, seen from what it returns.
      against: another function that should have the same value and gradient at the same arguments.
      directions: along how many Gaussian directions differences are taken; 0 takes none.
      leaf_directions: whether one more is taken for each leaf alone; None: as far as that takes some seconds.
      rules: whether each equation's rule is checked in place.
      reference: whether the reference is float64; otherwise it is the automatic gradient as it is.
      environment: also compare under vmap, remat, without jit, with loops unrolled, and sharded (L4).
      float64: compare the same function on float64 copies of the arguments: rounding hides nothing then. A function
        that fixes its dtypes itself gains nothing by it.
      intended: names of the user's functions whose rule differs from the derivative of their primal on purpose.
      seed: of the directions and of the Gaussian cotangents.
      progress: whether a line on the terminal says what is being done; None: if there is a terminal.

    Returns:
      a Comparison: print it, ask it `.ok`, or `.require()` it in a test.
    Raises:
      TypeError: there is nothing to differentiate: the message says at which argument, and what to pass instead.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp
      >>> found = fb.compare(lambda w, x: jnp.sum(jnp.tanh(x @ w)), jnp.ones(2), jnp.eye(2), progress=False)
      >>> print(found.verdict, found.leaves[0].shape)
      PASS (2,)
    """
    if isinstance(intended, str):
        raise TypeError(f"intended must be a sequence of names, like ({intended!r},).")
    options = Options(directions, leaf_directions, rules, reference, environment, tuple(intended), seed)
    with jax.enable_x64(True) if float64 else contextlib.nullcontext():
        args = with_bits(args, 64) if float64 else args
        program = make_program(fun, args, argnums, has_aux)
        other = program if against is None else make_program(against, args, argnums, has_aux)
        if against is not None and program.name == other.name:
            program, other = (one._replace(name=name_of(f, True)) for one, f in ((program, fun), (other, against)))
        with jax.default_matmul_precision("highest"), StatusLine(progress) as say:
            return run_stages(program, other, options, say)


def run_stages(program: Program, other: Program, options: Options, say: Callable[[str], None]) -> Comparison:
    """Every stage in turn, as far as the gradients can be compared at all."""
    work = Work(program, other, options, say)
    with limited_loops():
        for stage in STAGES:
            stage(work)
            if work.problems:
                break
    return comparison_of(work)


def comparison_of(work: Work) -> Comparison:
    """What the stages so far have found."""
    program, other, two = work.program, work.other, work.two
    return Comparison(
        name=f"{program.name} against {other.name}" if two else program.name,
        value=work.value_comparison, leaves=work.leaves, numeric=work.numeric, problems=work.problems,
        tolerance=tolerance_in_words(work.facts), seed=work.options.seed, equations=tuple(work.equations),
        audited=work.audited, contract=work.contract, environment=work.environment, intended=tuple(work.intended),
        notes=tuple(work.notes), sides=work.sides,
    )  # fmt: skip
