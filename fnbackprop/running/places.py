"""The places in a program at which it takes a gradient, and how each was taken.

A *place* is a line of the user's code: the one that calls `jax.vjp`, or a function that `jax.grad` or one of its kin
returned. Where a library calls it (Flax, Equinox, NumPyro), it is the nearest line outside of installed packages.
"""

import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np

from ..backprop import tape
from ..backprop.call import Call, run_by_rules, run_jaxpr
from ..backprop.engine import Engine
from ..backprop.memory.save_policy import BudgetError
from ..backprop.missing_rule import MissingRule
from ..backprop.pullback import vjp_of_call
from ..comparing.recorded import recorded
from ..jaxprs.evaluate import as_function, trace_leaves
from ..jaxprs.substitution import jax_gradients, jax_vjp
from ..jaxprs.types import Tracer
from .capture import Captured

INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))
PACKAGE = __name__.split(".")[0]
# What stands between the user's line and `jax.vjp`, wherever it is installed.
TRANSPARENT = ("jax.", "jax._src", f"{PACKAGE}.", "functools", "contextlib")


@dataclass
class Place:
    """One place.

    Attributes:
      line: "file:line".
      calls: how often a gradient was taken there; `traced`: how often of these while JAX traced (`jit`, `vmap`).
      raised: how often the function itself raised an error.
      fallback: why JAX differentiates here; empty where it does not.
      over_budget: why the options' budget is not kept here; empty where it is.
      within: the place whose function takes this gradient, if that is so; the two are compared as one.
      captured: the first call's function and arguments, if asked for.
      fusions: what looks like a block in its function (`fb.Fusion`), if blocks are to run.
    """

    line: str
    calls: int = 0
    traced: int = 0
    raised: int = 0
    fallback: str = ""
    over_budget: str = ""
    within: str = ""
    captured: Captured | None = None
    fusions: list[Any] = field(default_factory=list)
    needs_values: bool = field(default=False, repr=False)  # the function cannot be traced


class Places:
    """What takes the place of `jax.vjp`: differentiates by our rules, lets JAX do it where they cannot, keeps account.

    Args:
      options: keywords of `fb.vjp`.
      keep: keep the first call of each place, to compare it later.
      say: called with one line where JAX takes over.
    """

    def __init__(self, options: dict[str, Any], keep: bool, say: Callable[[str], None]):
        self.options, self.keep, self.say = options, keep, say
        self.found: dict[str, Place] = {}
        self._lock = threading.Lock()
        self._nested = threading.local()  # `.within`: the place whose function is being traced in this thread

    def vjp(self, fun: Callable, *primals: Any, has_aux: bool = False, **others: Any) -> tuple:
        """As `jax.vjp`."""
        leaves, in_tree = jax.tree.flatten(primals)
        place = self._place(leaves)
        if place.fallback or others:
            return jax_vjp(fun, *primals, has_aux=has_aux, **others)
        call = Call(fun, in_tree, has_aux)
        try:
            return self._within_budget(place, call, leaves)
        except Exception as error:
            if call.traced is None and _is_of_user(error.__traceback__):
                place.raised += 1
                raise  # the function's own error, which JAX would meet too
            failure = error
        found = _by_jax(call, primals)
        self._fall_back(place, failure)
        return found

    def _within_budget(self, place: Place, call: Call, leaves: list[Any]) -> tuple:
        """By our rules; without the options' budget where it cannot be kept."""
        try:
            return self._by_rules(place, call, leaves)
        except BudgetError as error:
            if "budget" not in self.options_of(place):
                raise  # it is the user's own
            place.over_budget = str(error)
        return self._by_rules(place, call, leaves)

    def options_of(self, place: Place) -> dict[str, Any]:
        """The keywords of `fb.vjp` at a place."""
        return {name: value for name, value in self.options.items() if name != "budget" or not place.over_budget}

    def _by_rules(self, place: Place, call: Call, leaves: list[Any]) -> tuple:
        outer = getattr(self._nested, "within", None)
        self._nested.within = place
        try:
            options = self.options_of(place) | ({"eager": True} if place.needs_values else {})
            run = self._with_fallback(place, Engine.of_options(options))
            found = vjp_of_call(call, leaves, run)
        finally:
            self._nested.within = outer
        place.needs_values |= call.traced is None
        place.fusions += [fusion for fusion in call.fusions if fusion not in place.fusions]
        if outer is not None:
            place.within = outer.line
        elif self.keep and place.captured is None:
            place.captured = Captured(call, leaves, place.needs_values)
        return found

    def _place(self, leaves: list[Any]) -> Place:
        line = user_line(sys._getframe(2))
        with self._lock:
            place = self.found.setdefault(line, Place(line))
            place.calls += 1
            place.traced += any(isinstance(leaf, Tracer) for leaf in leaves)
        return place

    def _fall_back(self, place: Place, error: Exception) -> None:
        place.fallback = _in_one_line(error)
        self.say(f"{short(place.line)}: by jax.grad, because ours cannot: {place.fallback}")

    def _with_fallback(self, place: Place, engine: Engine) -> Callable:
        """`run_by_rules`; where the backward fails and JAX's does not, JAX's. The primals are then residuals too."""

        def on_values(engine: Engine, call: Call, leaves: list[Any]) -> tuple[list[Any], Any, Callable]:
            """Of the first call, what runs is kept: to be compared, without calling the user's function again."""
            if not self.keep or place.captured is not None or any(isinstance(leaf, Tracer) for leaf in leaves):
                return tape.run(engine, call, leaves)
            place.needs_values, record = True, recorded(call, leaves)
            return run_jaxpr(engine, call, trace_leaves(record, leaves), leaves)

        def run(call: Call, leaves: list[Any]) -> tuple[list[Any], Any, Callable]:
            if call.traced is None:
                outputs, residuals, backward = run_by_rules(engine, call, leaves, on_values)
            else:  # before it was found to be over the budget
                outputs, residuals, backward = run_jaxpr(engine, call, call.traced, leaves)

            def guarded(residuals: Any, cts: list[Any]) -> list[Any]:
                own, primals = residuals
                try:
                    return backward(own, cts)
                except Exception as error:
                    failure = error
                found = _pull_by_jax(call, primals, cts)
                self._fall_back(place, failure)
                return found

            return outputs, (residuals, leaves), guarded

        return run


def _by_jax(call: Call, primals: tuple) -> tuple:
    """`jax.vjp`: of what was traced, so that the function does not run twice; else, or if JAX refuses, of the function.

    JAX may refuse what was traced because a gradient in it is already ours.
    """
    if call.traced is not None:
        function = as_function(call.traced)

        def traced(*primals: Any) -> tuple:
            outputs = function(*jax.tree.leaves(primals))
            return call.value(outputs), outputs

        try:
            value, pullback, outputs = jax_vjp(traced, *primals, has_aux=True)
            return (value, pullback, call.aux(outputs)) if call.has_aux else (value, pullback)
        except Exception:
            pass
    with jax_gradients():
        return jax_vjp(call.fun, *primals, has_aux=call.has_aux)


def _pull_by_jax(call: Call, leaves: list[Any], cts: list[Any]) -> list[Any]:
    """JAX's flat cotangents of the primals, None for those that have none."""
    function = call if call.traced is None else as_function(call.traced)
    outputs, pull = jax_vjp(lambda *leaves: function(*leaves)[: call.count], *leaves)
    float0 = jax.dtypes.float0  # of an integer output
    found = pull([np.zeros(y.shape, float0) if ct is None else ct for ct, y in zip(cts, outputs, strict=True)])
    return [None if ct.dtype == float0 else ct for ct in found]


def _is_of_user(traceback: TracebackType | None) -> bool:
    """Whether an error was raised by a line of the user's own code."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and _is_users_frame(traceback.tb_frame)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, MissingRule):
        return "no rule for " + ", ".join(sorted({equation.primitive.name for equation in error.equations}))
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}".removesuffix(": ")


# ---------------------------------------------------------------- whose line it is


def user_line(frame: FrameType | None) -> str:
    """ "file:line" of the nearest frame of the user's own code; of a library's, where there is none."""
    nearest = ""
    while frame is not None:
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if _is_users_frame(frame):
            return line
        if not nearest and not frame.f_globals.get("__name__", "").startswith(TRANSPARENT):
            nearest = line
        frame = frame.f_back
    return nearest or "an unknown place"


def short(line: str) -> str:
    """A place relative to the current folder, if it lies in it."""
    return line.removeprefix(os.getcwd() + os.sep)


def _is_users_frame(frame: FrameType) -> bool:
    file, module = frame.f_code.co_filename, frame.f_globals.get("__name__", "")
    return not (file.startswith(("<frozen", *INSTALLED)) or module.startswith(TRANSPARENT) or file == _MAIN)


_MAIN = __file__.removesuffix("places.py") + "main_module.py"
