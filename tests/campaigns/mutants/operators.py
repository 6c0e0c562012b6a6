"""How a rule's source is changed: each operator proposes edits, one mistake that a person might make.

An edit replaces a piece of source text. What leaves the mathematics as it is, like the exchange of the factors of a
product, is not proposed; neither is what changes the precision alone. Mutants that cannot run, for a shape or type is
wrong, are sorted out later: any use of the rule would show them.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass


class Source:
    """A module's text, with the text of each node of its tree."""

    def __init__(self, text: str):
        self.bytes = text.encode()
        self.tree = ast.parse(text)
        self._starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node lies, in bytes."""
        first, last = self._starts[node.lineno - 1], self._starts[node.end_lineno - 1]
        return first + node.col_offset, last + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.bytes[start:end].decode()


@dataclass(frozen=True)
class Edit:
    """One mistake: the operator that proposes it, and the pieces of text that it replaces."""

    operator: str
    line: int
    before: str
    after: str
    pieces: tuple[tuple[int, int, str], ...]  # start, end, new text

    def apply(self, source: Source) -> str:
        out = source.bytes
        for start, end, new in sorted(self.pieces, reverse=True):
            out = out[:start] + new.encode() + out[end:]
        return out.decode()


Proposals = Iterator[tuple[str, str]]  # operator, the new text of the node


def edits(source: Source, function: ast.FunctionDef, is_rule: bool) -> list[Edit]:
    """All mistakes in one function, without duplicates, in the order of the text."""
    found = {}
    for node in _expressions(function):
        for operator, new in _proposals(source, node):
            text = new if isinstance(node, ast.Slice) else f"({new})"
            edit = Edit(operator, node.lineno, source.text(node), new, ((*source.span(node), text),))
            found.setdefault(edit.pieces, edit)
    for edit in (*_return_edits(source, function, is_rule), *_operand_edits(source, function, is_rule)):
        found.setdefault(edit.pieces, edit)
    return sorted(found.values(), key=lambda edit: (edit.pieces[0][0], edit.operator, edit.after))


# Keywords that check, promise or hint, and change no value.
HINTS = {"strict", "precision", "unique_indices", "indices_are_sorted", "out_sharding", "sharding", "prevent_cse"}


def _expressions(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """The expressions of the body that compute something: no annotations, defaults, messages, docstrings, hints."""
    for statement in function.body:
        for node in ast.walk(statement):
            hint = isinstance(node, ast.keyword) and node.arg in HINTS
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if hint or text or isinstance(node, ast.Raise | ast.JoinedStr | ast.arguments):
                for inner in ast.walk(node):
                    inner.hidden = True
            if isinstance(node, ast.expr) and not getattr(node, "hidden", False):
                yield node


def _proposals(source: Source, node: ast.expr) -> Proposals:
    if isinstance(node, ast.Call):
        yield from _of_call(source, node)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node.value)
    elif isinstance(node, ast.UnaryOp | ast.BinOp | ast.Compare | ast.BoolOp | ast.IfExp):
        yield from _of_operator(source, node)
    elif isinstance(node, ast.Slice) and bool(node.lower) != bool(node.upper):
        bound = source.text(node.lower or node.upper)
        yield "other part of a slice", f"{bound}:" if node.upper else f":{bound}"


# ---------------------------------------------------------------- calls

# What a function of these is taken for.
CONFUSED = {
    "sin": "cos", "cos": "sin", "sinh": "cosh", "cosh": "sinh", "sqrt": "rsqrt", "rsqrt": "sqrt", "log": "log1p",
    "log1p": "log", "bessel_i0e": "bessel_i1e", "bessel_i1e": "bessel_i0e", "real": "imag", "imag": "real",
    "reduce_max": "reduce_min", "reduce_min": "reduce_max", "lower": "upper", "upper": "lower", "max": "min",
    "min": "max", "add": "sub", "sub": "add", "mul": "div", "div": "mul", "bitwise_and": "bitwise_or",
    "bitwise_or": "bitwise_and", "scatter_add": "scatter", "cumprod": "cumsum", "column": "row", "row": "column",
    "scale_rows": "scale_columns", "adjoint": "transpose", "eq": "ne", "ne": "eq", "ge": "gt", "le": "lt",
}  # fmt: skip
# What is left out when a call of these is replaced by its first operand.
FORGOTTEN = {
    "neg": "sign turned", "conj": "conjugate forgotten", "adjoint": "adjoint forgotten", "rev": "reversal forgotten",
    "transpose": "transposition forgotten", "lower": "mask forgotten", "upper": "mask forgotten",
    "argsort": "permutation not inverted", "inverse_permutation": "permutation not inverted",
    "square": "square forgotten", "exp": "function forgotten", "log": "function forgotten",
    "sqrt": "function forgotten", "rsqrt": "function forgotten", "sign": "function forgotten",
    "abs": "function forgotten", "floor": "function forgotten", "psum": "sum over devices forgotten",
    "device_sum": "sum over devices forgotten", "all_to_all": "exchange forgotten", "cumsum": "sum forgotten",
    "_moved": "shift forgotten", "_shift": "shift forgotten", "diagonal_matrix": "diagonal forgotten",
    "solve_triangular": "factor dropped", "take": "permutation forgotten", "reversed": "reversal forgotten",
}  # fmt: skip
ORDERED = {"sub", "div", "pow", "atan2", "complex", "matmul", "polygamma", "zeta", "igamma_grad_a", "dot_general"}
ORDERED |= {"lt", "gt", "le", "ge", "scale_rows", "scale_columns", "gamma_density", "_share"}
TERMS = {"add": "term dropped", "mul": "factor dropped", "matmul": "factor dropped", "bitwise_and": "condition dropped"}
TERMS |= {"bitwise_or": "condition dropped", "sub": "term dropped", "div": "factor dropped"}


def _of_call(source: Source, call: ast.Call) -> Proposals:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    operands = [source.text(a) for a in call.args if not isinstance(a, ast.Starred)]
    for keyword in call.keywords:
        yield from _of_keyword(source, call, keyword)
    if not operands or len(operands) < len(call.args):
        return
    if name in FORGOTTEN:
        yield FORGOTTEN[name], operands[-1] if name == "solve_triangular" else operands[0]
    if name in CONFUSED:
        yield "function confused", _renamed(source, call, CONFUSED[name])
    if name in ORDERED and len(operands) >= 2:
        yield "operands swapped", _called(source, call, [operands[1], operands[0], *operands[2:]])
    if name in TERMS and len(operands) == 2:
        a, b = operands
        yield TERMS[name], a
        yield TERMS[name], {"sub": f"-({b})", "div": f"1 / ({b})"}.get(name, b)
    if name in ("select", "select_n", "_where") and len(operands) in (2, 3):
        mask, *cases = operands
        yield from (("mask forgotten", case) for case in cases)
        if len(cases) == 2:
            yield "operands swapped", _called(source, call, [mask, *cases[::-1]])
    if name in ("reduce_sum", "sum_over", "psum", "device_sum") and len(operands) >= 2:
        whole = source.text(call)
        yield "mean for sum", f"({whole}) / 2"
    if name == "full_like" and len(operands) == 2:
        yield "constant changed", _called(source, call, [operands[0], f"1 + ({operands[1]})"])


def _renamed(source: Source, call: ast.Call, name: str) -> str:
    """The same call of another function of the same module."""
    start, end = source.span(call)
    old_start, old_end = source.span(call.func)
    function = f"{source.text(call.func.value)}.{name}" if isinstance(call.func, ast.Attribute) else name
    return (source.bytes[start:old_start] + function.encode() + source.bytes[old_end:end]).decode()


def _called(source: Source, call: ast.Call, operands: list[str]) -> str:
    keywords = [source.text(k) for k in call.keywords]
    return f"{source.text(call.func)}({', '.join([*operands, *keywords])})"


FLAGS = {"reverse", "lower", "left_side", "transpose_a", "conjugate_a", "unit_diagonal", "unit", "adjoint", "tiled"}
FLAGS |= {"transposed"}
AXES = {"axis", "dimension", "scatter_dimension", "all_gather_dimension"}


def _of_keyword(source: Source, call: ast.Call, keyword: ast.keyword) -> Proposals:
    """The same call with a flag turned or another axis."""
    if keyword.arg not in FLAGS | AXES or isinstance(keyword.value, ast.Constant):
        return
    value = source.text(keyword.value)
    new, operator = (f"not ({value})", "flag turned") if keyword.arg in FLAGS else (f"({value}) ^ 1", "axis exchanged")
    start, end = source.span(call)
    first, last = source.span(keyword.value)
    yield operator, (source.bytes[start:first] + new.encode() + source.bytes[last:end]).decode()


# ---------------------------------------------------------------- constants and operators


def _of_constant(value: object) -> Proposals:
    if isinstance(value, bool):
        yield "flag turned", str(not value)
    elif isinstance(value, int):
        yield "constant changed", str(value + 1)
        yield "constant changed", str(value - 1)
    elif isinstance(value, float | complex):
        yield "constant changed", repr(2 * value if value else 1.0)
    elif value in ("left", "right"):
        yield "side exchanged", repr("left" if value == "right" else "right")


ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "//"}
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
OPPOSITE = {ast.Lt: ">", ast.LtE: ">", ast.Gt: "<", ast.GtE: "<"}


def _of_operator(source: Source, node: ast.expr) -> Proposals:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        name = "sign turned" if isinstance(node.op, ast.USub) else "condition turned"
        yield name, source.text(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left, right = source.text(node.left), source.text(node.right)
        yield "operator confused", f"({left}) {ARITHMETIC[type(node.op)]} ({right})"
        yield "term dropped", left
        if isinstance(node.op, ast.Add | ast.Mult):
            yield "term dropped", right
        else:
            yield "operands swapped", f"({right}) {_symbol(node.op)} ({left})"
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        yield "power dropped", source.text(node.left)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        left, right = source.text(node.left), source.text(node.comparators[0])
        yield "comparison off by one", f"({left}) {COMPARISONS[type(node.ops[0])]} ({right})"
        if type(node.ops[0]) in OPPOSITE:
            yield "comparison turned", f"({left}) {OPPOSITE[type(node.ops[0])]} ({right})"
    elif isinstance(node, ast.BoolOp):
        other = " or " if isinstance(node.op, ast.And) else " and "
        yield "condition confused", other.join(f"({source.text(v)})" for v in node.values)
    elif isinstance(node, ast.IfExp):
        yield "case forgotten", source.text(node.body)
        yield "case forgotten", source.text(node.orelse)


def _symbol(op: ast.operator) -> str:
    return {ast.Sub: "-", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%"}[type(op)]


# ---------------------------------------------------------------- results and operands


def _return_edits(source: Source, function: ast.FunctionDef, is_rule: bool) -> Iterator[Edit]:
    """A cotangent that is left out, of the wrong sign, or 1 % too large."""
    for owner in ast.walk(function):
        named = isinstance(owner, ast.FunctionDef) and (owner is function and is_rule or owner.name == "backward")
        if not named:
            continue
        for node in _own_returns(owner):
            values = node.value.elts if isinstance(node.value, ast.Tuple | ast.List) else [node.value]
            for value in values:
                if isinstance(value, ast.Starred | ast.ListComp) or source.text(value) == "None":
                    continue
                old, lone = source.text(value), len(values) == 1
                for operator, factor in (("cotangent left out", 0), ("sign turned", -1), ("1 % too large", 1.01)):
                    new = SCALED.format(factor=factor, value=old) if factor or lone else "None"
                    shown = f"{factor} * ({old})" if factor or lone else "None"
                    yield Edit(operator, value.lineno, old, shown, ((*source.span(value), f"({new})"),))


def _own_returns(owner: ast.FunctionDef) -> Iterator[ast.Return]:
    """The returns with a value, without those of functions inside."""
    inside = {id(n) for f in ast.walk(owner) if isinstance(f, ast.FunctionDef) and f is not owner for n in ast.walk(f)}
    for node in ast.walk(owner):
        if isinstance(node, ast.Return) and id(node) not in inside and node.value is not None:
            yield node


SCALED = "__import__('jax').tree.map(lambda ct: ct * {factor}, {value})"  # of an array, or of a tuple of arrays


def _operand_edits(source: Source, function: ast.FunctionDef, is_rule: bool) -> Iterator[Edit]:
    """Another operand or output read in the place of one, or one of several cotangents ignored."""
    if not is_rule:
        return
    reads = [a for a in function.args.args if not a.arg.endswith("_aval") and a.arg not in ("active", "wanted")]
    names = {a.arg for a in reads}
    taken = names | {a.arg for a in function.args.kwonlyargs}
    operands, outputs = _signature(source, function)
    cotangents = {f"d{name}" for name in outputs}
    values = [a.arg for a in reads if a.arg not in cotangents]
    for node in _values_read(function, set(values)):
        for other in values:
            if other != node.id:
                yield Edit("another operand", node.lineno, node.id, other, ((*source.span(node), other),))
    for argument in reads:
        if argument.arg in cotangents and len(cotangents & names) > 1:
            yield _entering(source, function, "cotangent ignored", argument, argument.arg, f"{argument.arg} * 0")
        for stale in (*operands, *outputs):
            if argument.arg in values and stale not in taken:
                yield _entering(source, function, "stale residual", argument, stale, stale)


def _values_read(function: ast.FunctionDef, names: set[str]) -> Iterator[ast.Name]:
    """Where a rule reads one of these values, and not its shape or dtype alone."""
    nodes = [node for statement in function.body for node in ast.walk(statement)]
    shapes = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        shapes.update(map(id, {"full_like": call.args[:1], "scalar": call.args[1:]}.get(name, ())))
    for node in nodes:
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)
            and node.id in names
            and id(node) not in shapes
        ):
            yield node


def _entering(source: Source, function: ast.FunctionDef, operator: str, old: ast.arg, new: str, value: str) -> Edit:
    """The function with the parameter `new` in the place of `old`, which is set to `value` first."""
    start, _ = source.span(function.body[0])
    line = f"{old.arg} = {value}\n{' ' * function.body[0].col_offset}"
    renamed = (*source.span(old)[:1], source.span(old)[0] + len(old.arg.encode()), new)
    return Edit(operator, function.lineno, old.arg, value, (renamed, (start, start, line)))


def _signature(source: Source, function: ast.FunctionDef) -> tuple[list[str], list[str]]:
    """The plain names of a rule's operands and outputs, by its decorator."""
    decorator = next(d for d in function.decorator_list if "vjp_rule" in source.text(d))
    given = [a.value for a in decorator.args[1:] if isinstance(a, ast.Constant)]
    sides = (given[0] if given else "x -> y").split("->")
    return tuple([n.strip() for n in side.split(",") if n.strip() and "*" not in n] for side in sides)
