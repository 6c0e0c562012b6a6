"""The switch that puts another function in the place of `jax.vjp`, and so of all that calls it: `jax.grad`,
`value_and_grad`, `jacrev`, `hessian`.

JAX's own gradient functions look `vjp` up in their module when they are called, so one function there is enough. It
asks a setting of JAX's configuration what to do. Such a setting is local to a thread, nests, and is part of the key
under which `jit` keeps what it traced: a function that is called on both sides of a `with` is traced for each.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
from jax._src import api, config

from .tracebacks import hides_internal_frames

jax_vjp = api.vjp  # JAX's own, whatever is in its place later

# Which function is called instead of `jax.vjp`, by its key in `_functions`; "": JAX's own. A string, because JAX may
# hand its settings to a parser of command lines.
_substitute = config.string_or_object_state(
    "fnbackprop_substitute",
    "",
    "The function that takes the place of jax.vjp.",
    include_in_jit_key=True,
    include_in_trace_context=True,
)
_functions: dict[str, Callable] = {}

# What stands between `vjp` and whoever calls `grad`.
_TRANSPARENT = ("jax._src.api", "jax._src.traceback_util", "jax._src.api_util", "functools", "contextlib")
# The parts of JAX that take gradients for purposes of their own. Others, from `jit` to `scan`, call `grad` for the user
# who wrote `jit(grad(f))`.
_OWN_GRADIENTS = (
    "jax._src.scipy",
    "jax._src.cudnn",
    "jax._src.lax.control_flow.solves",
    "jax._src.pallas",
    "jax.experimental.ode",
    "jax._src.ad_checkpoint",
    "jax._src.export",
    "jax.experimental.pallas",
    "jax.experimental.roofline",
)


@contextmanager
def substituted(key: str, vjp: Callable) -> Iterator[None]:
    """`vjp` in the place of `jax.vjp` for what this thread calls inside. Functions of one key are taken as equal."""
    _functions[key] = vjp
    with _Installed(), _substitute(key):
        yield


@contextmanager
def jax_gradients() -> Iterator[None]:
    """JAX's own gradients for what this thread calls inside, whatever is in their place around."""
    with _substitute(""):
        yield


def is_substituted() -> bool:
    """Whether another function is in the place of `jax.vjp` in this thread."""
    return bool(_substitute.value)


def substitute_everywhere(key: str, vjp: Callable) -> None:
    """`vjp` in the place of `jax.vjp` in every thread, from now on."""
    _functions[key] = vjp
    _Installed().__enter__()
    _substitute.set_global(key)


@hides_internal_frames
def _vjp(fun: Callable, *primals: Any, has_aux: bool = False, **options: Any) -> Any:
    key = _substitute.value
    function = jax_vjp if not key or _called_by_jax(sys._getframe(1)) else _functions[key]
    return function(fun, *primals, has_aux=has_aux, **options)


_vjp.__name__ = _vjp.__qualname__ = "vjp"
_vjp.__doc__ = jax_vjp.__doc__


def _called_by_jax(frame: FrameType | None) -> bool:
    """Whether a gradient is taken by JAX's own code (an ODE solver, a minimizer) rather than by the user's."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_TRANSPARENT):
            return module.startswith(_OWN_GRADIENTS)
        frame = frame.f_back
    return False


class _Installed:
    """`_vjp` stands where `jax.vjp` stood, also where a module has imported that by name, until the last one leaves."""

    lock = threading.Lock()
    count = 0
    places: list[tuple[Any, str]] = []

    def __enter__(self) -> None:
        with self.lock:
            _Installed.count += 1
            if self.count == 1:
                _Installed.places = list(_places())
                for module, name in self.places:
                    setattr(module, name, _vjp)

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            _Installed.count -= 1
            if self.count == 0:
                for module, name in self.places:
                    if getattr(module, name, None) is _vjp:
                        setattr(module, name, jax_vjp)


def _places() -> Iterator[tuple[Any, str]]:
    """Where `jax.vjp` is a global variable: in JAX's public module and the one of `grad`, and in those of others."""
    yield from ((api, "vjp"), (jax, "vjp"))
    for name, module in list(sys.modules.items()):
        if name == "jax" or name.startswith(("jax.", "jax._src", "fnbackprop")):
            continue
        for variable, value in list(getattr(module, "__dict__", {}).items()):
            if value is jax_vjp:
                yield module, variable
