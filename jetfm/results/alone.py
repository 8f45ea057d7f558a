"""One figure, or some, without the rest: the stages that it reads, then the cells that draw it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS, PAPER_FIGURES
from jetfm.pipeline import Pipeline
from jetfm.results.cells import makers, needed, run
from jetfm.settings.profiles import Profile
from jetfm.storage.locks import exclusive
from jetfm.storage.paths import figures_folder

_OF_A_PAPER = re.compile(r"(?:(\d{4}\.\d{5}):|fig)0*(\d+)")


def figures_named(patterns: Sequence[str]) -> list[str]:
    """Our figures of these names, in their order.

    Parameters
    ----------
    patterns : names such as 'fig05_finetuning', or their beginning ('fig05'), or patterns
        ('fig02_class_*'); or a figure of a paper as '2403.05618:7', or 'fig07' where no notebook
        has that number

    Raises
    ------
    JetfmError
        There are none of such a name.
    """
    chosen = {name for pattern in patterns for name in _named(pattern)}
    return [name for name in CAPTIONS if name in chosen]


def _named(pattern: str) -> list[str]:
    if pattern in CAPTIONS:
        return [pattern]
    found = [n for n in CAPTIONS if fnmatchcase(n, pattern) or n.startswith(f"{pattern}_")]
    of_a_paper = _OF_A_PAPER.fullmatch(pattern)
    if not found and of_a_paper:
        paper, number = of_a_paper.groups()
        same = [p for p in PAPER_FIGURES if p.number == number and paper in (None, p.paper)]
        found = [one.name for one in same if one.name]
        if same and not found:
            raise JetfmError(
                "--only", repr(pattern), f"another figure: this one is {same[0].reason}"
            )
    if not found:
        expected = f"figures' names, their beginnings or patterns: {', '.join(CAPTIONS)}"
        raise JetfmError("--only", repr(pattern), expected)
    return found


def draw_alone(
    profile: Profile, names: Sequence[str], say: Callable[[str], None] = print, progress=True
) -> list[Path]:
    """Make the stages that these figures read, and draw them; what is done is found.

    Returns
    -------
    their pictures
    """
    folder = figures_folder(profile.name)
    with exclusive(folder, say):
        pipeline = Pipeline(profile, progress, say, only=names)
        targets = {id(one): one for name in names for one in makers(name)}.values()
        for _, some in groupby(targets, key=lambda one: one.notebook):
            run(needed(some, given=("pipeline",)), {"pipeline": pipeline})
    return [folder / f"{name}.png" for name in names]
