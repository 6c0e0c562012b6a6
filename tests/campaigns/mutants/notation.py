"""One view of an operation in either notation: `lax.sub(a, b)` and `a - b`, `adjoint(u)` and `u.H` are the same to it.

So each mistake is described once, and the place of a node in a rule is the same when the rule is written the other way.
"""

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

BINARY = {
    "add": ast.Add, "sub": ast.Sub, "mul": ast.Mult, "div": ast.Div, "pow": ast.Pow, "matmul": ast.MatMult,
    "bitwise_and": ast.BitAnd, "bitwise_or": ast.BitOr, "floor_div": ast.FloorDiv, "mod": ast.Mod,
}  # fmt: skip
COMPARISONS = {"lt": ast.Lt, "le": ast.LtE, "gt": ast.Gt, "ge": ast.GtE, "eq": ast.Eq, "ne": ast.NotEq}
UNARY = {"neg": ast.USub, "bitwise_not": ast.Invert, "not": ast.Not}
ATTRIBUTES = {"transpose": "T", "adjoint": "H", "real": "real", "imag": "imag"}
METHODS = {"conj"}
NAMES = {node: name for table in (BINARY, COMPARISONS, UNARY) for name, node in table.items()}
ATTRIBUTE_NAMES = {attribute: name for name, attribute in ATTRIBUTES.items()}


class Operation(NamedTuple):
    """A function by its name in `lax`, with its operands; `build(name, operands)` is another in the same notation."""

    name: str
    operands: list[ast.expr]
    build: Callable[[str, list[ast.expr]], ast.expr]


def operation(node: ast.AST) -> Operation | None:
    """The operation that an expression is, if it is one."""
    match node:
        case ast.BinOp(left, op, right):
            return Operation(NAMES[type(op)], [left, right], infix) if type(op) in NAMES else None
        case ast.Compare(left, [op], [right]):
            return Operation(NAMES[type(op)], [left, right], infix) if type(op) in NAMES else None
        case ast.UnaryOp(op, operand):
            return Operation(NAMES[type(op)], [operand], infix) if type(op) in NAMES else None
        case ast.Attribute(value, attribute) if attribute in ATTRIBUTE_NAMES:
            return Operation(ATTRIBUTE_NAMES[attribute], [value], infix)
        case ast.Call(ast.Attribute(value, method), [], []) if method in METHODS:
            return Operation(method, [value], infix)
        case ast.Call(function, operands) if not any(isinstance(a, ast.Starred) for a in operands):
            name = getattr(function, "attr", getattr(function, "id", ""))
            return Operation(name, operands, lambda name, operands: call(node, name, operands))
    return None


def infix(name: str, operands: list[ast.expr]) -> ast.expr:
    """An operation in the notation of mathematics."""
    if name in BINARY:
        return ast.BinOp(operands[0], BINARY[name](), operands[1])
    if name in COMPARISONS:
        return ast.Compare(operands[0], [COMPARISONS[name]()], operands[1:])
    if name in UNARY:
        return ast.UnaryOp(UNARY[name](), operands[0])
    return ast.Attribute(operands[0], ATTRIBUTES[name], ast.Load())


def call(node: ast.Call, name: str, operands: list[ast.expr]) -> ast.Call:
    """The same call of another function of the same module."""
    function = node.func
    if isinstance(function, ast.Attribute) and name != function.attr:
        function = ast.Attribute(function.value, name, ast.Load())
    elif isinstance(function, ast.Name):
        function = ast.Name(name, ast.Load())
    return ast.Call(function, operands, node.keywords)


# ---------------------------------------------------------------- places


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes below one, operands first; no docstring, and nothing but expressions and statements."""
    if isinstance(node, ast.FunctionDef):
        return node.body[1:] if ast.get_docstring(node) is not None else list(node.body)
    found = operation(node)
    first = found.operands if found else []
    known = {id(child) for child in first}
    rest = [] if isinstance(node, ast.Call) and id(getattr(node.func, "value", None)) in known else _fields(node)
    return [_number(child) for child in (*first, *(child for child in rest if id(child) not in known))]


def _number(node: ast.AST) -> ast.AST:
    """The number in `scalar(number, like)`, which infix notation writes alone."""
    is_scalar = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "scalar"
    return node.args[0] if is_scalar else node


def _fields(node: ast.AST) -> Iterator[ast.AST]:
    """The child nodes; what a call calls comes last."""
    symbols = ast.expr_context | ast.operator | ast.cmpop | ast.unaryop | ast.boolop
    kept = [child for child in ast.iter_child_nodes(node) if not isinstance(child, symbols)]
    function = getattr(node, "func", None)
    return sorted(kept, key=lambda child: child is function)


def places(function: ast.FunctionDef, hidden: Callable[[ast.AST], bool]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a function's body with its place, "2.0.1": which statement, and which child at each step."""

    def below(node: ast.AST, path: tuple[int, ...]) -> Iterator[tuple[str, ast.AST]]:
        for i, child in enumerate(children(node)):
            if not hidden(child):
                yield ".".join(map(str, (*path, i))), child
                yield from below(child, (*path, i))

    return below(function, ())


def substituted(node: object, changes: dict[int, object]) -> object:
    """A copy of a tree with the nodes of these ids replaced; in a list of statements, by one or several."""
    if id(node) in changes:
        return changes[id(node)]
    if isinstance(node, list):
        copies = [substituted(item, changes) for item in node]
        return [one for copy in copies for one in (copy if isinstance(copy, list) else [copy])]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: substituted(value, changes) for name, value in ast.iter_fields(node)}
    return ast.copy_location(type(node)(**fields), node)
