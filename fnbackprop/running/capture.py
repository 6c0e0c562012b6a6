"""The function and the arguments of one call that takes a gradient, kept to be compared after the program has ended.

The function is kept as its jaxpr, so that it is not traced a second time. Under `jit` the arguments are not known when
the gradient is taken: the compiled program hands them over when it runs for the first time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..backprop.call import Call
from ..comparing.program import first_line
from ..comparing.weighted import weighted
from ..jaxprs.evaluate import as_function
from ..jaxprs.types import Tracer, rebuild


class Captured:
    """A function as its jaxpr, and the arrays of its first call.

    Attributes:
      name: of the function.
      reason: why it cannot be compared; empty where it can.
      note: what is to be said of it; empty for nothing.
      arrays: what the function closes over, then its arguments' leaves; None until they are known.
      x64: whether 64-bit mode was on.
    """

    def __init__(self, call: Call, leaves: Sequence[Any], needs_values: bool = False):
        self.note = "needs values: compared as it ran then, with what it decided held as it was" if needs_values else ""
        self.name, self.in_tree, self.x64 = call.__name__, call.in_tree, jax.config.jax_enable_x64
        self.arrays: list[Any] | None = None
        self.reason = _refusal(call)
        if self.reason:
            return
        try:
            self._keep(call, leaves)
        except Exception as error:  # what JAX cannot hand over: the script goes on
            self.reason = first_line(error)

    def _keep(self, call: Call, leaves: Sequence[Any]) -> None:
        jaxpr, consts = call.traced.jaxpr, call.traced.consts
        closed = rebuild(jaxpr, [], [], [*jaxpr.constvars, *jaxpr.invars], jaxpr.eqns)
        self.function, self.count, self.consts = as_function(closed), call.count, len(consts)
        self._keep_arrays([*consts, *map(jnp.asarray, leaves)])

    def _keep_arrays(self, arrays: list[Any]) -> None:
        keys = [jax.random.key_impl(x) if _is_key(x) else None for x in arrays]
        data = [x if impl is None else jax.random.key_data(x) for x, impl in zip(arrays, keys, strict=True)]
        known = {i: np.array(x) for i, x in enumerate(data) if not isinstance(x, Tracer)}
        awaited = [i for i in range(len(data)) if i not in known]

        def keep(*values: Any) -> None:
            if self.arrays is None:
                found = known | dict(zip(awaited, map(np.array, values), strict=True))
                pairs = zip((found[i] for i in range(len(data))), keys, strict=True)
                self.arrays = [x if impl is None else jax.random.wrap_key_data(x, impl=impl) for x, impl in pairs]

        if awaited:
            hand_over(keep, lambda: self.arrays is None, [data[i] for i in awaited])
        else:
            keep()

    def program(self) -> tuple[Callable, tuple]:
        """The function, its outputs added up to one number by fixed weights, and its arguments: those of the user,
        and a list of what the function closes over."""
        consts, leaves = self.arrays[: self.consts], self.arrays[self.consts :]

        def function(*args: Any) -> list[Any]:
            *primals, consts = args
            return self.function(*consts, *jax.tree.leaves(primals))[: self.count]

        function.__name__ = self.name
        return weighted(function), (*self.in_tree.unflatten(leaves), consts)


def _refusal(call: Call) -> str:
    """Why a call cannot be compared; empty if it can."""
    if call.traced is None:
        return "the function needs the values of its arguments, and was not traced"
    if jax.sharding.get_abstract_mesh().manual_axes:
        return "inside shard_map"
    if call.traced.jaxpr.effects:
        names = {type(effect).__name__.removesuffix("Effect") for effect in call.traced.jaxpr.effects}
        return f"it has side effects ({', '.join(sorted(names))}), which would happen again"
    if jax.process_count() > 1:
        return "there are several processes"
    return ""


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def hand_over(keep: Callable, wanted: Callable[[], bool], arrays: Sequence[Any]) -> None:
    """Call `keep(*arrays)` with the values of traced arrays when they are known, as long as `wanted()`.

    The program asks each time, so that it sends its arrays to the host only once. Under `vmap` the first example.
    """

    @jax.custom_batching.custom_vmap
    def send(*arrays: Any) -> tuple:
        asked = jax.pure_callback(lambda: np.bool_(wanted()), jax.ShapeDtypeStruct((), bool))
        jax.lax.cond(asked, lambda: jax.debug.callback(keep, *arrays), lambda: None)
        return ()

    @send.def_vmap
    def send_first(axis_size: int, batched: Sequence[bool], *arrays: Any) -> tuple:
        hand_over(keep, wanted, [x[0] if on else x for x, on in zip(arrays, batched, strict=True)])
        return (), ()

    send(*map(jax.lax.stop_gradient, arrays))
