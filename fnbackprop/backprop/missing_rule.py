"""The error of equations without a rule, which says how to register one."""

from collections.abc import Sequence

from ..jaxprs.types import Equation
from .registry import lookup


class MissingRule(NotImplementedError, ValueError):
    """Equations that a gradient must flow through have no rule; the message has the lines that would register one.

    Raised before anything runs. It is a NotImplementedError, as JAX's of a primitive without a derivative, and a
    ValueError, as JAX's of a callback to the host.

    Attributes:
        missing: for each of them, the equation and the user's line.
        equations: the equations alone.
    Example:
        >>> import fnbackprop as fb, jax
        >>> from fnbackprop.jaxprs.types import Primitive
        >>> unknown = Primitive("unknown")
        >>> _ = unknown.def_impl(lambda x: x), unknown.def_abstract_eval(lambda x: x)
        >>> try:
        ...     fb.grad(unknown.bind)(1.0)
        ... except fb.MissingRule as error:
        ...     print(error.equations[0].primitive)
        unknown
    """

    def __init__(self, missing: Sequence[tuple[Equation, str]]):
        self.missing = tuple(missing)
        super().__init__(_missing_message(self.missing))

    @property
    def equations(self) -> tuple[Equation, ...]:
        return tuple(equation for equation, _ in self.missing)


def _missing_message(missing: Sequence[tuple[Equation, str]]) -> str:
    lines = [f"no VJP rule for {len(missing)} equation(s) that the gradient flows through:"]
    unexplained = None
    for equation, where in missing:
        operands = ", ".join(str(atom.aval.str_short()) for atom in equation.invars)
        lines.append(f"  {_called(equation)}({operands})  at {where}")
        entry = lookup(equation.primitive)
        if entry is not None and entry.unsupported:
            lines.append(f"    {entry.unsupported}")
        else:
            unexplained = unexplained or equation
    return "\n".join(lines if unexplained is None else [*lines, *_suggestion(unexplained)])


def _called(equation: Equation) -> str:
    """The primitive, and the host function or external target that it calls."""
    callback = equation.params.get("callback")
    target = equation.params.get("target_name") or getattr(callback, "callback_func", None)
    name = equation.primitive.name
    return name if target is None else f"{name}[{getattr(target, '__name__', target)}]"


def _suggestion(equation: Equation) -> list[str]:
    """The lines that would register a rule."""
    names = ", ".join(f"x{i}" for i in range(len(equation.invars)))
    outs = ", ".join(f"y{i}" for i in range(len(equation.outvars)))
    cotangents = outs.replace("y", "dy")
    primitive = equation.primitive.name
    return [
        "Register one, for example:",
        f'  @fb.vjp_rule("{primitive}", "{names} -> {outs}")',
        f"  def {primitive.replace('-', '_')}_vjp({cotangents}, {names}):",
        f"      return ...  # a cotangent for each of {names}",
        f'or say that none flows: fb.nondifferentiable("{primitive}", reason="...")',
    ]
