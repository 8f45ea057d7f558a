"""Classes of jets by expression: ``161 <= jet_label <= 187 and jet_sdmass > 50``.

Python's own parser reads the text, pyarrow's kernels compute what it says, and nothing is executed.
An expression is made of comparisons between columns of jets and numbers (``< <= == != >= >``, also
in chains) with ``and``, ``or``, ``not`` or ``&``, ``|``, ``~`` between them, as pandas, uproot and
weaver write them. Anything else is refused: calls, strings, arithmetic, subscripts.

A value that is not known, null or NaN, decides nothing: a jet belongs to a class only where what is
known makes the expression true (Kleene's logic).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jetfm.errors import JetfmError

EXPECTED = (
    "comparisons of columns of the jets with numbers, with 'and', 'or', 'not' between them, "
    "e.g. jet_label >= 161 and jet_sdmass > 50"
)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*")  # of a class: a column's and a file's name, too
_MOST_CHARACTERS, _MOST_LEVELS = 10_000, 100  # our choice; Python's recursion ends at 1000
_LARGEST = 2**63

_COMPARISONS = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.GtE: pc.greater_equal,
    ast.Gt: pc.greater,
}
_AND, _OR = (ast.And, ast.BitAnd), (ast.Or, ast.BitOr)
_SEVERAL = {operator: pc.and_kleene for operator in _AND}
_SEVERAL |= {operator: pc.or_kleene for operator in _OR}


def check_name(name: str, where: object) -> str:
    """The name of a class, if it can be one."""
    if not _NAME.fullmatch(name) or name == "unknown":
        expected = "a name of letters, digits, '_', '+' and '-' that begins with a letter"
        raise JetfmError(where, f"a class {name!r}", expected)
    return name


def parse(text: str, where: object) -> ast.expr:
    """The tree of an expression, checked.

    Parameters
    ----------
    where : named in errors

    Raises
    ------
    JetfmError
        Anything but comparisons of columns and numbers and what joins them.
    """
    shown = f"{' '.join(text.split()):.200}"
    if len(text) > _MOST_CHARACTERS:
        raise JetfmError(where, f"an expression of {len(text)} characters", "a shorter one")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise JetfmError(where, f"{shown!r}", EXPECTED) from None
    refused = _refused(tree, _MOST_LEVELS)
    if refused is not None:
        hint = ""
        if "&" in text or "|" in text or "~" in text:
            hint = "; beside '&', '|' and '~' every comparison needs parentheses"
        raise JetfmError(where, f"{refused:.80} in {shown!r}", EXPECTED + hint)
    if not columns_of(tree):
        raise JetfmError(where, f"no column in {shown!r}", EXPECTED)
    return tree


def columns_of(tree: ast.expr) -> tuple[str, ...]:
    """Columns that an expression names, each once; those of a record with their dots."""
    found: dict[str, None] = {}

    def look(node: ast.AST) -> None:
        name = _column(node)
        if name is not None:
            found[name] = None
        else:
            for child in ast.iter_child_nodes(node):
                look(child)

    look(tree)
    return tuple(found)


def evaluate(tree: ast.expr, columns: Mapping[str, pa.Array]) -> np.ndarray:
    """(jets,) bool: where a checked expression is true.

    Parameters
    ----------
    columns : by name, as `columns_of` has it: (jets,) numbers or truth values, nulls allowed
    """
    known = {name: _with_nulls(array) for name, array in columns.items()}
    return pc.fill_null(_value(tree, known), False).to_numpy(zero_copy_only=False)


def labels_of(
    trees: Mapping[str, ast.expr],
    columns: Mapping[str, pa.Array],
    classes: Sequence[str],
    where: object,
    start: int = 0,
) -> np.ndarray:
    """(jets,) int64: place of each jet's class among `classes`, -1 where it is of none.

    Parameters
    ----------
    trees : of `parse`, by the name of the class
    where, start : file and its first jet here, for errors

    Raises
    ------
    JetfmError
        A jet that is of two classes, or columns that cannot be compared.
    """
    labels = np.full(len(next(iter(columns.values()))), -1, np.int64)
    for name, tree in trees.items():
        try:
            of_class = evaluate(tree, {column: columns[column] for column in columns_of(tree)})
        except pa.ArrowException as error:
            text = f"{ast.unparse(tree)!r}, which cannot be computed ({error})"
            raise JetfmError(f"{where}: class {name}", text, EXPECTED) from error
        twice = of_class & (labels >= 0)
        if twice.any():
            jet = int(np.argmax(twice))
            found = f"jet {start + jet} of {classes[labels[jet]]} and of {name}"
            raise JetfmError(where, found, "expressions that no jet meets two of")
        labels[of_class] = classes.index(name)
    return labels


def _column(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=name):
            outer = _column(inner)
            return None if outer is None else f"{outer}.{name}"
    return None


def _number(node: ast.AST) -> float | int | None:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as inner):
            value = _number(inner)
            return None if value is None else -value
        case ast.Constant(value=value) if type(value) in (int, float):  # True is no number
            good = abs(value) < _LARGEST if isinstance(value, int) else math.isfinite(value)
            return value if good else None
    return None


def _refused(node: ast.AST, levels: int) -> str | None:
    """What is not allowed of a truth value, or None."""
    inner: Iterable[ast.AST] = ()
    match node:
        case ast.BoolOp(values=inner):
            pass
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr(), right=right):
            inner = (left, right)
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            inner = (operand,)
        case ast.Compare(left=left, ops=operators, comparators=others):
            for operator in operators:
                if type(operator) not in _COMPARISONS:
                    return f"'{type(operator).__name__.lower()}'"
            for one in (left, *others):
                if _column(one) is None and _number(one) is None:
                    return repr(ast.unparse(one))
        case _:
            return repr(ast.unparse(node))
    if levels == 0:
        return f"more than {_MOST_LEVELS} levels"
    return next((r for one in inner if (r := _refused(one, levels - 1)) is not None), None)


def _value(node: ast.AST, columns: Mapping[str, pa.Array]) -> pa.Array | pa.Scalar:
    """Of a checked tree."""
    name, number = _column(node), _number(node)
    if name is not None:
        return columns[name]
    if number is not None:
        return pa.scalar(number)
    match node:
        case ast.BoolOp(op=operator, values=values):
            return reduce(_SEVERAL[type(operator)], [_value(one, columns) for one in values])
        case ast.BinOp(left=left, op=operator, right=right):
            return _SEVERAL[type(operator)](_value(left, columns), _value(right, columns))
        case ast.UnaryOp(operand=operand):
            return pc.invert(_value(operand, columns))
    operands = [_value(one, columns) for one in (node.left, *node.comparators)]
    pairs = zip(node.ops, operands[:-1], operands[1:], strict=True)
    return reduce(pc.and_kleene, [_COMPARISONS[type(op)](a, b) for op, a, b in pairs])


def _with_nulls(array: pa.Array) -> pa.Array:
    """Truth values as 0 and 1, null for NaN."""
    if pa.types.is_boolean(array.type):
        return array.cast(pa.int8())
    if pa.types.is_floating(array.type):
        return pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return array
