"""Mistakes that are about a whole rule: in the cotangents that it returns, and in the values that it reads."""

import ast
from collections.abc import Iterator

from .notation import children, places, substituted
from .operators import Edit, expression_edits, numbered, shown

DECORATORS = {"vjp_rule", "derivative"}


def edits(function: ast.FunctionDef) -> list[Edit]:
    """All mistakes in one function, those of its results and operands too if it is a rule."""
    found = list(expression_edits(function))
    decorator = rule_decorator(function)
    found += _result_edits(function, decorator is not None)
    if decorator is not None:
        found += _operand_edits(function, decorator)
    return numbered(found)


def rule_decorator(function: ast.FunctionDef) -> ast.Call | None:
    """The call that registers a function as a rule, by its signature."""
    for decorator in function.decorator_list:
        name = getattr(decorator, "func", None)
        if getattr(name, "attr", getattr(name, "id", "")) in DECORATORS:
            return decorator
    return None


# ---------------------------------------------------------------- results

FACTORS = {"cotangent left out": 0, "sign turned": -1, "1 % too large": 1.01}
SCALED = ast.parse("__import__('jax').tree.map(lambda ct: ct * FACTOR, VALUE)", mode="eval").body


def _result_edits(function: ast.FunctionDef, is_rule: bool) -> Iterator[Edit]:
    """A result that is left out, of the wrong sign, or 1 % too large: of a rule, or of a `backward` inside."""
    for place, value, lone in _results(function, is_rule):
        for operator, factor in FACTORS.items():
            if factor or lone:
                new, after = _scaled(value, factor), f"{factor} * ({shown(value)})"
            else:
                new, after = ast.Constant(None), "None"
            yield Edit(operator, place, shown(value), after, ((value, new),))


def _scaled(value: ast.expr, factor: float) -> ast.expr:
    """An array or expression, or a tuple of them, times a number."""
    named = {n.id: n for n in ast.walk(SCALED) if isinstance(n, ast.Name)}
    return substituted(SCALED, {id(named["FACTOR"]): ast.Constant(factor), id(named["VALUE"]): value})


def _results(function: ast.FunctionDef, is_rule: bool) -> Iterator[tuple[str, ast.expr, bool]]:
    """(place, value, whether it is the only one) of what is returned."""

    def below(node: ast.AST, path: str, counts: bool) -> Iterator[tuple[str, ast.expr, bool]]:
        if isinstance(node, ast.Return) and counts and node.value is not None:
            several = isinstance(node.value, ast.Tuple | ast.List)
            values = node.value.elts if several else [node.value]
            for i, value in enumerate(values):
                if not isinstance(value, ast.Starred | ast.ListComp) and shown(value) != "None":
                    yield f"{path}.0.{i}" if several else f"{path}.0", value, len(values) == 1
        for i, child in enumerate(children(node)):
            inside = child.name == "backward" if isinstance(child, ast.FunctionDef) else counts
            yield from below(child, f"{path}.{i}".lstrip("."), inside)

    return below(function, "", is_rule or function.name == "backward")


# ---------------------------------------------------------------- operands

# Attributes that are values, and not a shape or dtype.
VALUES = {"T", "H", "conj", "real", "imag", "astype"}
NO_VALUE = {"full_like": slice(0, 1), "scalar": slice(1, None)}  # operands of which only the shape or dtype is read


def _operand_edits(function: ast.FunctionDef, decorator: ast.Call) -> Iterator[Edit]:
    """Another operand or output read in the place of one, or one of several cotangents ignored."""
    reads = [a for a in function.args.args if not a.arg.endswith("_aval") and a.arg not in ("active", "wanted")]
    names = {a.arg for a in reads}
    taken = names | {a.arg for a in function.args.kwonlyargs}
    operands, outputs = _signature(decorator)
    cotangents = {f"d{name}" for name in outputs}
    values = [a.arg for a in reads if a.arg not in cotangents]
    for place, node in _values_read(function, set(values)):
        for other in values:
            if other != node.id:
                new = ast.Name(other, ast.Load())
                yield Edit("another operand", place, node.id, other, ((node, new),))
    for argument in reads:
        if argument.arg in cotangents and len(cotangents & names) > 1:
            yield _entering(function, "cotangent ignored", argument, argument.arg, f"{argument.arg} * 0")
        for stale in (*operands, *outputs):
            if argument.arg in values and stale not in taken:
                yield _entering(function, "stale residual", argument, stale, stale)


def _values_read(function: ast.FunctionDef, names: set[str]) -> Iterator[tuple[str, ast.Name]]:
    """Where a rule reads one of these values, and not its shape or dtype alone."""
    nodes = list(places(function, lambda node: False))
    shapes = {id(n.value) for _, n in nodes if isinstance(n, ast.Attribute) and n.attr not in VALUES}
    for call in (node for _, node in nodes if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        shapes.update(map(id, call.args[NO_VALUE[name]] if name in NO_VALUE else ()))
    for place, node in nodes:
        read = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        if read and node.id in names and id(node) not in shapes:
            yield place, node


def _entering(function: ast.FunctionDef, operator: str, old: ast.arg, new: str, value: str) -> Edit:
    """The function with the parameter `new` in the place of `old`, which is set to `value` first."""
    place = f"argument {function.args.args.index(old)}"
    first = function.body[0]
    statement = ast.parse(f"{old.arg} = {value}").body[0]
    changes = ((old, ast.arg(new)), (first, [statement, first]))
    return Edit(operator, place, old.arg, value, changes)


def _signature(decorator: ast.Call) -> tuple[list[str], list[str]]:
    """The plain names of a rule's operands and outputs, by its decorator."""
    given = [a.value for a in decorator.args[1:] if isinstance(a, ast.Constant)]
    sides = (given[0] if given else "x -> y").split("->")
    return tuple([n.strip() for n in side.split(",") if n.strip() and "*" not in n] for side in sides)
