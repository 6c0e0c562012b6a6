"""The engine that trains, walked on numbers: it enters every body, and tells a recorder what it sees.

Plans, rules, sums and casts are those of `Engine`; what is different is that loops and calls are walked one equation,
and one iteration, at a time, instead of being handed to the compiler as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..backprop.engine import INTERNAL, Engine
from ..backprop.plan import Plan, make_plan
from ..backprop.registry import Structured
from ..jaxprs.avals import add_typed, is_hijax
from ..jaxprs.evaluate import interpret, literals_as_arrays, read_array
from ..jaxprs.primitives import Trait, has
from ..jaxprs.types import Tracer
from ..jaxprs.views import Call
from .bodies import body_of
from .recorder import Recorder
from .regions import Region


@dataclass(frozen=True)
class RecordingEngine(Engine):
    """An engine whose walks are recorded.

    recorder: what is told. In what is traced, such as a user's JVP, it is told nothing.
    region: the `shard_map` that is walked. Values are then stacks of the devices' pieces."""

    recorder: Recorder = field(default_factory=lambda: Recorder(lambda record: False), metadata=INTERNAL)
    region: Region | None = field(default=None, metadata=INTERNAL)

    @classmethod
    def telling(cls, recorder: Recorder, options: Mapping[str, Any]) -> "RecordingEngine":
        """The engine with a user's options, that tells this recorder. Raises TypeError for an unknown option."""
        return cls(**settings_of(Engine.of_options(options)), recorder=recorder)

    @property
    def plain(self) -> Engine:
        """The engine with the same options, which is not recorded."""
        return Engine(**settings_of(self))

    def inside(self, region: Region) -> "RecordingEngine":
        return replace(self, region=region)

    # ------------------------------------------------------------ rows of loops

    def row(self, x: Any, i: int) -> Any:
        return x[i] if self.region is None else x[:, i]

    def stack_rows(self, rows: list[Any]) -> Any:
        return jnp.stack(rows, axis=0 if self.region is None else 1)

    # ------------------------------------------------------------ plans

    def plan(self, closed: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
        key = self, closed, active, wanted
        if key not in self.recorder.plans:
            self.recorder.plans[key] = self._make_plan(closed, active, wanted)
        return self.recorder.plans[key]

    def _make_plan(self, closed: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Plan:
        if self.region is None:
            return make_plan(self, closed, active, wanted, None)
        plan = self.region.inside(lambda: make_plan(self, closed, active, wanted, None))
        return replace(plan, closed=self.region.with_stacked_constants(plan.closed))

    def structured(self, entry: Any, equation: Any, active: tuple[bool, ...], wanted: tuple[bool, ...]) -> Structured:
        walk = body_of(equation, self.region is not None)
        if walk is not None:
            return walk(self, equation, active, wanted)
        if self.region is None:
            return super().structured(entry, equation, active, wanted)
        return self.region.whole(self.plain.structured(entry, equation, active, wanted), equation)

    # ------------------------------------------------------------ forward

    def forward(self, plan: Plan, operands: Sequence[Any]) -> tuple[list[Any], Any]:
        if self.region is None:
            return super().forward(plan, operands)
        jaxpr = plan.closed.jaxpr
        outputs, residuals = super().forward(
            plan, list(map(self.region.stack, operands, (v.aval for v in jaxpr.invars)))
        )
        return list(map(self.region.stack, outputs, (v.aval for v in jaxpr.outvars))), residuals

    def evaluate(self, step: Any, equation: Any, values: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        if any(isinstance(x, Tracer) for x in values):
            return super().evaluate(step, equation, values)
        with self._surroundings():
            return self._recorded_evaluate(step, equation, values)

    def _surroundings(self) -> Any:
        return nullcontext() if self.region is None else self.region.outside()

    def _recorded_evaluate(self, step: Any, equation: Any, values: list[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        recorder, operands = self.recorder, literals_as_arrays(equation, values)
        before = len(recorder.moments)
        recorder.record_of(equation, self.region)  # which numbers it before those in its body
        if step is not None and step.structured is not None:
            with recorder.inside(equation, label_of(equation)):
                outputs, residuals = super().evaluate(step, equation, values)
        elif step is None and (has(equation, Trait.CALL) or has(equation, Trait.CUSTOM_RULE)):
            with recorder.inside(equation, label_of(equation)):
                outputs, residuals = self._constant_call(equation, operands), ()
        elif self.region is None:
            outputs, residuals = super().evaluate(step, equation, values)
        else:
            outputs, residuals = self.region.evaluate(self.plain, step, equation, values), ()
        outputs = list(outputs)
        if not any(isinstance(y, Tracer) for y in outputs):
            entered = len(recorder.moments) > before
            recorder.saw_values(equation, operands, outputs, entered)
        return outputs, residuals

    def _constant_call(self, equation: Any, operands: list[Any]) -> list[Any]:
        """A call that no gradient flows through."""
        body = Call.of(equation).body
        if self.region is not None:
            body = self.region.with_stacked_constants(body)
        return interpret(body.jaxpr, body.consts, operands, lambda e, xs: self.evaluate(None, e, xs)[0], read_array)

    # ------------------------------------------------------------ backward

    def pull(self, step: Any, env: dict, residual: Any, cts: list[Any]) -> tuple[list[Any], Iterable[Any]]:
        if any(isinstance(ct, Tracer) for ct in cts):
            return super().pull(step, env, residual, cts)
        with self._surroundings():
            return self._recorded_pull(step, env, residual, cts)

    def _recorded_pull(self, step: Any, env: dict, residual: Any, cts: list[Any]) -> tuple[list[Any], list[Any]]:
        recorder = self.recorder
        before = len(recorder.moments)
        if step.structured is None:
            keys, found = self._pulled(step, env, residual, cts)
        else:
            with recorder.inside(step.equation, label_of(step.equation)):
                keys, found = self._pulled(step, env, residual, cts)
        entered = len(recorder.moments) > before
        if not entered:
            found = _distinct(found, cts)
        recorder.saw_cotangents(step, cts, keys, found, entered)
        return keys, found

    def _pulled(self, step: Any, env: dict, residual: Any, cts: list[Any]) -> tuple[list[Any], list[Any]]:
        if self.region is None:
            keys, found = super().pull(step, env, residual, cts)
            return keys, list(found)
        if step.structured is None:
            return self.region.pull(self.plain, step, env, cts)
        found = enumerate(step.structured.backward(residual, cts))
        kept = [(step.equation.invars[i], ct) for i, ct in found if ct is not None and step.active[i]]
        return [v for v, _ in kept], [lax.convert_element_type(ct, v.aval.dtype) for v, ct in kept]

    def add_cotangents(self, known: dict[Any, Any], keys: Sequence[Any], cotangents: Iterable[Any]) -> None:
        """As the engine's; a sum is a moment of its own."""
        with self._surroundings():
            for key, ct in zip(keys, cotangents, strict=True):
                if key is None or ct is None:
                    continue
                old = known.get(key)
                known[key] = ct if old is None else self.recorder.derived(add_typed(old, ct), [old, ct], "sum", True)


def settings_of(engine: Engine) -> dict[str, Any]:
    """The fields of an engine that every `Engine` has."""
    return {f.name: getattr(engine, f.name) for f in fields(Engine)}


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
