"""The engine that trains, walked on numbers: it enters every body, and tells a recorder what it sees.

Plans, rules, sums and casts are those of `Engine`; what is different is that loops and calls are walked one equation,
and one iteration, at a time, instead of being handed to the compiler as a whole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import jax

from ..backprop.engine import Engine
from ..backprop.plan import Plan, make_plan
from ..backprop.registry import Structured
from ..jaxprs.avals import add_typed, is_hijax
from ..jaxprs.evaluate import interpret, literals_as_arrays, read_array
from ..jaxprs.primitives import Trait, has
from ..jaxprs.types import Tracer
from ..jaxprs.views import Call
from .bodies import body_of
from .recorder import Recorder


@dataclass(frozen=True)
class RecordingEngine(Engine):
    """An engine whose walks are recorded.

    recorder: what is told. In what is traced, such as the body of a `shard_map`, it is told nothing."""

    recorder: Recorder = field(default_factory=lambda: Recorder(lambda record: False), metadata={"internal": True})

    @classmethod
    def telling(cls, recorder: Recorder, options: dict[str, Any]) -> "RecordingEngine":
        """The engine with a user's options, that tells this recorder. Raises TypeError for an unknown option."""
        return cls(**{f.name: getattr(Engine.of_options(options), f.name) for f in fields(Engine)}, recorder=recorder)

    # ------------------------------------------------------------ plans

    def plan(self, closed: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
        key = self, closed, active, wanted
        if key not in self.recorder.plans:
            self.recorder.plans[key] = make_plan(self, closed, active, wanted, None)
        return self.recorder.plans[key]

    def structured(self, entry: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
        walk = body_of(equation)
        if walk is not None:
            return walk(self, equation, active, wanted)
        return super().structured(entry, equation, active, wanted)

    # ------------------------------------------------------------ forward

    def evaluate(self, step: Any, equation: Any, values: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        if any(isinstance(x, Tracer) for x in values):
            return super().evaluate(step, equation, values)
        recorder, operands = self.recorder, literals_as_arrays(equation, values)
        before = len(recorder.moments)
        recorder.record_of(equation)  # which numbers it before those in its body
        if step is not None and step.structured is not None:
            with recorder.inside(equation, label_of(equation)):
                outputs, residuals = super().evaluate(step, equation, values)
        elif step is None and (has(equation, Trait.CALL) or has(equation, Trait.CUSTOM_RULE)):
            with recorder.inside(equation, label_of(equation)):
                outputs, residuals = self._constant_call(equation, operands), ()
        else:
            outputs, residuals = super().evaluate(step, equation, values)
        outputs = list(outputs)
        if not any(isinstance(y, Tracer) for y in outputs):
            entered = len(recorder.moments) > before
            recorder.saw_values(equation, operands, outputs, entered)
        return outputs, residuals

    def _constant_call(self, equation: Any, operands: list[Any]) -> list[Any]:
        """A call that no gradient flows through."""
        body = Call.of(equation).body
        return interpret(body.jaxpr, body.consts, operands, lambda e, xs: self.evaluate(None, e, xs)[0], read_array)

    # ------------------------------------------------------------ backward

    def pull(self, step: Any, env: dict, residual: Any, cts: list[Any]) -> tuple[list[Any], Iterable[Any]]:
        if any(isinstance(ct, Tracer) for ct in cts):
            return super().pull(step, env, residual, cts)
        recorder = self.recorder
        before = len(recorder.moments)
        if step.structured is None:
            keys, found = super().pull(step, env, residual, cts)
            found = list(found)
        else:
            with recorder.inside(step.equation, label_of(step.equation)):
                keys, found = super().pull(step, env, residual, cts)
                found = list(found)
        entered = len(recorder.moments) > before
        if not entered:
            found = _distinct(found, cts)
        recorder.saw_cotangents(step, cts, keys, found, entered)
        return keys, found

    def add_cotangents(self, known: dict[Any, Any], keys: Sequence[Any], cotangents: Iterable[Any]) -> None:
        """As the engine's; a sum is a moment of its own."""
        for key, ct in zip(keys, cotangents, strict=True):
            if key is None or ct is None:
                continue
            old = known.get(key)
            known[key] = ct if old is None else self.recorder.derived(add_typed(old, ct), [old, ct], "sum", True)


def label_of(equation: Any) -> str:
    """What the body of an equation is called in paths."""
    name, primitive = equation.params.get("name"), equation.primitive.name
    return f"{primitive}({name})" if isinstance(name, str) and has(equation, Trait.CALL) else primitive


def _distinct(found: list[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The cotangents found, each an array object of its own: an addition hands on the one that came in, twice."""
    seen, distinct = {id(ct) for ct in cotangents}, []
    for ct in found:
        if id(ct) in seen and isinstance(ct, jax.Array) and not is_hijax(jax.typeof(ct)):
            pieces = [shard.data for shard in ct.addressable_shards]
            ct = jax.make_array_from_single_device_arrays(ct.shape, ct.sharding, pieces)
        seen.add(id(ct))
        distinct.append(ct)
    return distinct
