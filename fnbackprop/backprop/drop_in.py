"""Our vjp in the place of JAX's, for code that cannot or should not be changed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..jaxprs.substitution import substitute_everywhere, substituted
from .pullback import vjp


@contextmanager
def drop_in(**options: Any) -> Iterator[None]:
    """Hand-written gradients for all that is called inside: `jax.grad` and its kin are `fb.grad` and its kin.

    `jax.vjp`, `grad`, `value_and_grad`, `jacrev` and `hessian` differentiate by our rules, in libraries too (Flax,
    Equinox, optax, NumPyro, diffrax). What JAX's own code differentiates is left to JAX. It holds in this thread, it
    nests, and a function that was jitted outside is traced again inside.

        with fb.drop_in():
            state = train_step(state, batch)

    Args:
        options: keywords of `fb.vjp`: `budget`, `hoist`, `checkpoints`, `safe_select`, `eager`, `foreign`.
    """
    with substituted(*_keyed(options)):
        yield


def drop_in_everywhere(**options: Any) -> None:
    """As `drop_in`, in every thread of the process and for good."""
    substitute_everywhere(*_keyed(options))


def _keyed(options: dict[str, Any]) -> tuple[str, Callable]:
    """A key that is the same for equal options, and the function that takes the place of `jax.vjp`."""

    def hand_written_vjp(fun, *primals, has_aux=False, reduce_axes=()):
        if reduce_axes:
            raise NotImplementedError("reduce_axes argument to vjp is deprecated")
        return vjp(fun, *primals, has_aux=has_aux, **options)

    return f"fnbackprop {sorted(options.items())}", hand_written_vjp
