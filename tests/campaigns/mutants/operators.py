"""How a rule is changed: each operator proposes edits, one mistake that a person might make.

An edit replaces a node of the syntax tree, in prefix and in infix notation alike (`notation.py`). What leaves the
mathematics as it is, like the exchange of the factors of a product, is not proposed; neither is what changes the
precision alone. Mutants that cannot run, for a shape or type is wrong, are sorted out later: any use of the rule would
show them.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .notation import Operation, operation, places, substituted


@dataclass(frozen=True)
class Edit:
    """One mistake: the operator that proposes it, the place and the nodes that it replaces.

    place: of the node in the function, see `places`; with the operator and a number among its kind, it names the edit.
    """

    operator: str
    place: str
    before: str
    after: str
    changes: tuple[tuple[ast.AST, object], ...]  # a node, and what stands in its place
    number: int = 1

    @property
    def name(self) -> str:
        return f"{self.place} {self.operator}" + (f" #{self.number}" if self.number > 1 else "")

    def apply(self, tree: ast.Module) -> ast.Module:
        """The changed tree, which may be compiled."""
        return ast.fix_missing_locations(substituted(tree, {id(old): new for old, new in self.changes}))


Proposals = Iterator[tuple[str, ast.AST]]  # operator, the node that takes the place


def replacement(operator: str, place: str, node: ast.AST, new: ast.AST) -> Edit:
    return Edit(operator, place, shown(node), shown(new), ((node, new),))


def shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def expression_edits(function: ast.FunctionDef) -> Iterator[Edit]:
    """The mistakes in the expressions of a function's body."""
    for place, node in places(function, hidden):
        for operator, new in _proposals(node):
            yield replacement(operator, place, node, new)


def numbered(edits: Iterator[Edit]) -> list[Edit]:
    """Without duplicates and those that change nothing, each with its number among those of one operator and place."""
    found, counts = {}, Counter()
    for edit in edits:
        same = tuple((id(old), _dumped(new)) for old, new in edit.changes)
        if same not in found and any(_dumped(old) != _dumped(new) for old, new in edit.changes):
            counts[edit.place, edit.operator] += 1
            found[same] = replace(edit, number=counts[edit.place, edit.operator])
    return list(found.values())


def _dumped(new: object) -> str:
    return " ".join(map(ast.dump, new if isinstance(new, list) else [new]))


# Keywords that check, promise or hint, and change no value.
HINTS = {"strict", "precision", "unique_indices", "indices_are_sorted", "out_sharding", "sharding", "prevent_cse"}


def hidden(node: ast.AST) -> bool:
    """No value is computed there: annotations, defaults, messages, texts, hints."""
    hint = isinstance(node, ast.keyword) and node.arg in HINTS
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return hint or text or isinstance(node, ast.Raise | ast.JoinedStr | ast.arguments)


def _proposals(node: ast.AST) -> Proposals:
    if (found := operation(node)) is not None:
        yield from _of_operation(found)
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            yield from _of_keyword(node, keyword)
    elif isinstance(node, ast.Constant):
        yield from ((operator, ast.Constant(value)) for operator, value in _of_constant(node.value))
    elif isinstance(node, ast.BoolOp):
        yield "condition confused", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.IfExp):
        yield "case forgotten", node.body
        yield "case forgotten", node.orelse
    elif isinstance(node, ast.Slice) and bool(node.lower) != bool(node.upper):
        yield "other part of a slice", ast.Slice(node.upper, node.lower, node.step)


# ---------------------------------------------------------------- operations

# What a function or operator of these is taken for.
CONFUSED = {
    "sin": "cos", "cos": "sin", "sinh": "cosh", "cosh": "sinh", "sqrt": "rsqrt", "rsqrt": "sqrt", "log": "log1p",
    "log1p": "log", "bessel_i0e": "bessel_i1e", "bessel_i1e": "bessel_i0e", "real": "imag", "imag": "real",
    "reduce_max": "reduce_min", "reduce_min": "reduce_max", "lower": "upper", "upper": "lower", "max": "min",
    "min": "max", "add": "sub", "sub": "add", "mul": "div", "div": "mul", "bitwise_and": "bitwise_or",
    "bitwise_or": "bitwise_and", "scatter_add": "scatter", "cumprod": "cumsum", "column": "row", "row": "column",
    "scale_rows": "scale_columns", "adjoint": "transpose", "floor_div": "mul", "mod": "floor_div",
}  # fmt: skip
# What is left out when one of these is replaced by its first operand.
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
    "pow": "power dropped", "bitwise_not": "condition turned", "not": "condition turned",
}  # fmt: skip
ORDERED = {"sub", "div", "pow", "atan2", "complex", "matmul", "polygamma", "zeta", "igamma_grad_a", "dot_general"}
ORDERED |= {"scale_rows", "scale_columns", "gamma_density", "_larger", "floor_div", "mod"}
TERMS = {"add": "term dropped", "mul": "factor dropped", "matmul": "factor dropped", "bitwise_and": "condition dropped"}
TERMS |= {"bitwise_or": "condition dropped", "sub": "term dropped", "div": "factor dropped"}
OFF_BY_ONE = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq"}
TURNED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
SELECTIONS = {"select", "select_n", "where", "_where"}
SUMS = {"reduce_sum", "sum_over", "psum", "device_sum"}


def _of_operation(found: Operation) -> Proposals:
    name, operands, build = found
    if not operands:
        return
    if name in FORGOTTEN:
        yield FORGOTTEN[name], operands[-1] if name == "solve_triangular" else operands[0]
    if name in CONFUSED:
        yield "function confused", build(CONFUSED[name], operands)
    if name in ORDERED and len(operands) >= 2:
        yield "operands swapped", build(name, [operands[1], operands[0], *operands[2:]])
    if name in TERMS and len(operands) == 2:
        yield TERMS[name], operands[0]
        yield TERMS[name], _alone(name, operands[1])
    if name in OFF_BY_ONE:
        yield "comparison off by one", build(OFF_BY_ONE[name], operands)
    if name in TURNED:
        yield "comparison turned", build(TURNED[name], operands)
    if name in SELECTIONS and len(operands) in (2, 3):
        yield from (("mask forgotten", case) for case in operands[1:])
        if len(operands) == 3:
            yield "operands swapped", build(name, [operands[0], operands[2], operands[1]])
    if name in SUMS and len(operands) >= 2:
        yield "mean for sum", ast.BinOp(build(name, operands), ast.Div(), ast.Constant(2))
    if name == "full_like" and len(operands) == 2:
        yield "constant changed", build(name, [operands[0], ast.BinOp(ast.Constant(1), ast.Add(), operands[1])])


def _alone(name: str, second: ast.expr) -> ast.expr:
    """What is left of an operation without its first operand."""
    if name == "sub":
        return ast.UnaryOp(ast.USub(), second)
    return ast.BinOp(ast.Constant(1), ast.Div(), second) if name == "div" else second


FLAGS = {"reverse", "lower", "left_side", "transpose_a", "conjugate_a", "unit_diagonal", "unit", "adjoint", "tiled"}
FLAGS |= {"transposed"}
AXES = {"axis", "dimension", "scatter_dimension", "all_gather_dimension"}


def _of_keyword(call: ast.Call, keyword: ast.keyword) -> Proposals:
    """The same call with a flag turned or another axis."""
    if keyword.arg not in FLAGS | AXES or isinstance(keyword.value, ast.Constant):
        return
    turned = ast.UnaryOp(ast.Not(), keyword.value)
    exchanged = ast.BinOp(keyword.value, ast.BitXor(), ast.Constant(1))
    operator, new = ("flag turned", turned) if keyword.arg in FLAGS else ("axis exchanged", exchanged)
    keywords = [ast.keyword(keyword.arg, new) if other is keyword else other for other in call.keywords]
    yield operator, ast.Call(call.func, call.args, keywords)


def _of_constant(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, bool):
        yield "flag turned", not value
    elif isinstance(value, int):
        yield "constant changed", value + 1
        yield "constant changed", value - 1
    elif isinstance(value, float | complex):
        yield "constant changed", 2 * value if value else 1.0
    elif value in ("left", "right"):
        yield "side exchanged", "left" if value == "right" else "right"
