"""Which cell of which notebook makes a figure, and which statements before it that cell needs.

Found in the notebooks themselves: a figure is made by the statement that holds its name. What that
one needs is followed backwards from name to name, statement by statement, so that a figure can be
drawn without the rest of its notebook.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import nbformat

from jetfm.errors import JetfmError
from jetfm.notebooks import numbered

_SCOPES = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Statement:
    """A top-level statement of a code cell.

    Attributes
    ----------
    notebook, cell, number : file, the cell's id, and its place among all cells, from 1
    tree : of the statement
    """

    notebook: Path
    cell: str
    number: int
    tree: ast.stmt

    @cached_property
    def strings(self) -> set[str]:
        """String constants in it."""
        nodes = (n.value for n in ast.walk(self.tree) if isinstance(n, ast.Constant))
        return {value for value in nodes if isinstance(value, str)}

    @property
    def defines(self) -> set[str]:
        """Names that it binds, in the notebook and not within an expression."""
        if isinstance(self.tree, (ast.Import, ast.ImportFrom)):
            return {(a.asname or a.name).partition(".")[0] for a in self.tree.names}
        return _names(self.tree, ast.Store) - _bound_inside(self.tree)

    @property
    def uses(self) -> set[str]:
        """Names that it reads and does not bind itself."""
        own = _bound_inside(self.tree) | set(dir(builtins))
        if isinstance(self.tree, ast.For):
            own |= _names(self.tree.target, ast.Store)
        changed = _names(self.tree.target, ast.Store) if self.extends else set()
        return (_names(self.tree, ast.Load) | changed) - own

    @property
    def extends(self) -> bool:
        """Whether what it binds was bound before, as by ``+=``."""
        return isinstance(self.tree, ast.AugAssign)


def _names(tree: ast.AST, context: type) -> set[str]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, context)}


def _bound_inside(tree: ast.AST) -> set[str]:
    """Names of comprehensions' variables."""
    scopes = (node for node in ast.walk(tree) if isinstance(node, _SCOPES))
    return {name for s in scopes for one in s.generators for name in _names(one.target, ast.Store)}


@cache
def statements(notebook: Path) -> tuple[Statement, ...]:
    """All top-level statements of a notebook's code, in order."""
    cells = nbformat.read(notebook, as_version=4).cells
    return tuple(
        Statement(notebook, cell.id, number, tree)
        for number, cell in enumerate(cells, 1)
        if cell.cell_type == "code"
        for tree in ast.parse(cell.source).body
    )


def makers(name: str) -> list[Statement]:
    """The statements that hold a figure's name.

    Raises
    ------
    JetfmError
        No notebook makes such a figure.
    """
    found = [one for path in numbered() for one in statements(path) if name in one.strings]
    if not found:
        raise JetfmError(name, "no notebook that makes it", "a figure of the numbered notebooks")
    return found


def needed(targets: Iterable[Statement], given: Collection[str] = ()) -> list[Statement]:
    """Statements of one notebook, and those before them that bind what they use, in order.

    Parameters
    ----------
    given : names that are there already
    """
    targets = list(targets)
    every = statements(targets[0].notebook)
    wanted, chosen = set(), []
    for one in reversed(every):
        bound = one.defines & wanted
        if one not in targets and not bound:
            continue
        chosen.append(one)
        if not one.extends:
            wanted -= one.defines
        wanted |= one.uses - set(given)
    return chosen[::-1]


def run(program: Sequence[Statement], names: dict) -> None:
    """Execute statements with these names, as a notebook would."""
    for one in program:
        module = ast.Module([one.tree], type_ignores=[])
        exec(compile(module, f"{one.notebook.name}, cell {one.number}", "exec"), names)
