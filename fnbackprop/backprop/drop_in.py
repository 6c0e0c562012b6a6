"""Our vjp in the place of JAX's, for code that cannot or should not be changed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Unpack

from ..jaxprs.substitution import substitute_everywhere, substituted
from .options import Options, takes_options
from .pullback import vjp


@takes_options
@contextmanager
def drop_in(**options: Unpack[Options]) -> Iterator[None]:
    """Hand-written gradients for all that is called inside: `jax.grad` and its kin are `fb.grad` and its kin.

    `jax.vjp`, `grad`, `value_and_grad`, `jacrev` and `hessian` differentiate by our rules, in libraries too (Flax,
    Equinox, optax, NumPyro, diffrax). What JAX's own code differentiates is left to JAX. It holds in this thread, it
    nests, and a function that was jitted outside is traced again inside.

        with fb.drop_in():
            state = train_step(state, batch)

    Args:
        options: those of `fb.vjp`.
    Returns:
        A context manager, whose `with` gives nothing.
    Raises:
        TypeError: an option is unknown.
        MissingRule: by what is called inside, as `fb.grad`.
    Example:
        >>> import jax, jax.numpy as jnp, fnbackprop as fb
        >>> halve = lambda x: jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)  # jax.grad refuses it
        >>> with fb.drop_in():
        ...     print(jax.grad(halve)(6.0))
        0.125
    """
    with substituted(*_keyed(options)):
        yield


def drop_in_everywhere(**options: Unpack[Options]) -> None:
    """As `drop_in`, in every thread of the process and for good."""
    substitute_everywhere(*_keyed(options))


def _keyed(options: Options) -> tuple[str, Callable]:
    """A key that is the same for equal options, and the function that takes the place of `jax.vjp`."""

    def hand_written_vjp(fun, *primals, has_aux=False, reduce_axes=()):
        if reduce_axes:
            raise NotImplementedError("reduce_axes argument to vjp is deprecated")
        return vjp(fun, *primals, has_aux=has_aux, **options)

    return f"fnbackprop {sorted(options.items())}", hand_written_vjp
