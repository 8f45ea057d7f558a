"""What files of jets call the branches of JetClass, and which of their jets make which class.

Files have JetClass's names (`jetfm.schema.BRANCHES`), or others that a YAML file maps to them::

    part_px: constituents.px     # a list of records; or a column of its own name
    part_py: constituents.py
    part_pz: constituents.pz
    part_energy: constituents.e
    classes:                     # name: expression, see jetfm.data.class_expressions
      QCD: truth == 0
      Tbqq: truth == 1
    pt_range: [200, 2500]        # GeV, of the jets' selection; JetClass's by default
    tree: Events                 # of ROOT files

A file is read by a map if it has all columns that the map names, by JetClass's names if it has
none of them, so that foreign jets and JetClass's stand side by side in one command; a file that has
some is an error. Momenta may be given as px, py, pz or as pt, eta, phi, each with an energy, a mass
or, of massless constituents, neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import yaml

from jetfm.data.class_expressions import check_name, columns_of, parse
from jetfm.errors import JetfmError
from jetfm.schema import CLASS_NAMES, CONSTITUENT_FEATURES, TREE_NAME, class_by_name
from jetfm.storage.files import naming

#: Constituent features that are a branch of the file.
FEATURE_BRANCHES = {
    "charge": "part_charge",
    "is_charged_hadron": "part_isChargedHadron",
    "is_neutral_hadron": "part_isNeutralHadron",
    "is_photon": "part_isPhoton",
    "is_electron": "part_isElectron",
    "is_muon": "part_isMuon",
    "d0val": "part_d0val",
    "d0err": "part_d0err",
    "dzval": "part_dzval",
    "dzerr": "part_dzerr",
}
CARTESIAN, POLAR = ("part_px", "part_py", "part_pz"), ("part_pt", "part_eta", "part_phi")
ENERGIES = ("part_energy", "part_mass")  # the first that there is
JET_MOMENTUM = ("jet_pt", "jet_eta", "jet_phi")
JET_ENERGIES = ("jet_energy", "jet_mass")
JET_SHAPES = ("jet_sdmass", *map("jet_tau{}".format, "1234"))
LABELS = tuple(f"label_{name}" for name in CLASS_NAMES)

#: What a map can name.
KNOWN = (
    *CARTESIAN, *POLAR, *ENERGIES, *FEATURE_BRANCHES.values(), *JET_MOMENTUM, *JET_ENERGIES,
    *JET_SHAPES, *LABELS,
)  # fmt: skip

_MANY = 60  # names in a message


@dataclass(frozen=True)
class Layout:
    """Names of a file's columns, and classes by expression; the default is JetClass's own.

    Parameters
    ----------
    branches : pairs of a name in `KNOWN` and what the files call it
    classes : pairs of a name and an expression; a jet that meets none is of no class
    pt_range : GeV, the selection of the jets; None is that of the kind of file
    tree : of ROOT files

    Raises
    ------
    JetfmError
        A name that is not known, or an expression that is none.
    """

    branches: tuple[tuple[str, str], ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    pt_range: tuple[float, float] | None = None
    tree: str = TREE_NAME
    where: str = field(default="branches", compare=False)  # named in errors

    def __post_init__(self) -> None:
        for ours, _ in self.branches:
            if ours not in KNOWN:
                raise JetfmError(self.where, repr(ours), f"one of {', '.join(KNOWN)}")
        names = [check_name(name, f"{self.where}: classes") for name, _ in self.classes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise JetfmError(f"{self.where}: classes", f"{twice} twice", "each class once")
        _ = self.expressions  # parses them

    @cached_property
    def expressions(self) -> dict:
        """Trees of the classes' expressions, by name."""
        return {name: parse(text, f"{self.where}: class {name}") for name, text in self.classes}

    def __reduce__(self):  # without the trees
        values = (self.branches, self.classes, self.pt_range, self.tree, self.where)
        return type(self), values

    @property
    def is_jetclass(self) -> bool:
        """Whether it says nothing that JetClass's own names would not."""
        return self == JETCLASS

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ...: those of JetClass, then others."""
        own = [name for name, _ in self.classes if name not in CLASS_NAMES]
        return (*CLASS_NAMES, *own)

    def name(self, ours: str) -> str:
        """What the files call a branch."""
        return dict(self.branches).get(ours, ours)

    def columns_of_classes(self) -> dict[tuple[str, str], str]:
        """Columns that the expressions name, by a key apart from ours, and the files' names."""
        trees = self.expressions.values()
        return {("class", name): self.name(name) for tree in trees for name in columns_of(tree)}

    def of_file(self, found: Collection[str], where: object) -> Layout:
        """This layout, or JetClass's where a file has nothing that this one names.

        Raises
        ------
        JetfmError
            Columns of which only some are there; without a map of branches all must be.
        """
        if self.is_jetclass:
            return self
        named = {theirs for _, theirs in self.branches} | set(self.columns_of_classes().values())
        missing = sorted(named - set(found))
        if missing and (len(missing) < len(named) or not self.branches):
            expected = f"also {', '.join(missing)}, which {self.where} names"
            raise JetfmError(where, _listed(found), expected)
        return JETCLASS if missing else self

    def to_dict(self) -> dict:
        """As JSON has it, for manifests."""
        pt_range = None if self.pt_range is None else list(self.pt_range)
        return {
            "branches": dict(self.branches),
            "classes": dict(self.classes),
            "pt_range": pt_range,
            "tree": self.tree,
        }

    def recorded(self) -> dict:
        """Entry of a store's manifest; none for JetClass's own."""
        return {} if self.is_jetclass else {"layout": self.to_dict()}

    def columns(
        self, found: Collection[str], features: Iterable[str], where: object
    ) -> dict[str, str]:
        """Which columns of a file to read, and no more: our names, and the file's.

        Constituents' momenta are needed, and the branches of the features; what there is of the
        jet's own momentum, its shapes and labels is read, too.

        Raises
        ------
        JetfmError
            A column that is needed and not there.
        """
        there = {ours: name for ours in KNOWN if (name := self.name(ours)) in found}
        form = self._form(there)
        wanted = [*form, *(FEATURE_BRANCHES[name] for name in features if name in FEATURE_BRANCHES)]
        energy = next((ours for ours in ENERGIES if ours in there), None)
        if energy is not None:
            wanted.append(energy)
        elif "mass" in features:
            wanted.append(ENERGIES[0])
        missing = [self.name(ours) for ours in wanted if ours not in there]
        if missing:
            expected = f"also {', '.join(missing)}"
            if form == CARTESIAN and any(ours in missing for ours in CARTESIAN):
                expected += f" (or {', '.join(POLAR)})"
            raise JetfmError(where, _listed(found), expected + "; --branches maps other names")
        if all(ours in there for ours in JET_MOMENTUM):
            wanted += JET_MOMENTUM
            wanted += [ours for ours in JET_ENERGIES if ours in there][:1]
        wanted += [ours for ours in JET_SHAPES if ours in there]
        if not self.classes:
            wanted += [ours for ours in LABELS if ours in there]
        return {ours: there[ours] for ours in wanted}

    def features(self, found: Collection[str]) -> tuple[str, ...]:
        """Constituent features that a file with these columns has."""
        energies = any(self.name(ours) in found for ours in ENERGIES)
        return tuple(
            name
            for name in CONSTITUENT_FEATURES
            if (energies if name == "mass" else self.name(FEATURE_BRANCHES[name]) in found
                if name in FEATURE_BRANCHES else True)
        )  # fmt: skip

    def _form(self, there: Mapping[str, str]) -> tuple[str, ...]:
        """Momenta as they are given: as the map says, else as JetClass has them."""
        mapped = dict(self.branches)
        forms = sorted((CARTESIAN, POLAR), key=lambda form: not any(o in mapped for o in form))
        return next((form for form in forms if all(ours in there for ours in form)), forms[0])


JETCLASS = Layout()


def read_layout(path: str | Path) -> Layout:
    """The layout that a YAML file describes, see the module.

    Raises
    ------
    JetfmError
        A missing or unreadable file, an entry that is not known or not of its kind.
    """
    path = Path(path)
    with naming(path):
        text = path.read_bytes()
    try:
        values = yaml.safe_load(text.decode()) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        found = " ".join(f"unreadable YAML ({error})".split())
        raise JetfmError(path, found, "a map of branches, e.g. part_px: constituents.px") from None
    if not isinstance(values, dict):
        found = f"{type(values).__name__} {values!r:.40}"
        raise JetfmError(path, found, "a map of branches, e.g. part_px: constituents.px")
    values = dict(values)
    classes, pt_range = values.pop("classes", None) or {}, values.pop("pt_range", None)
    tree = values.pop("tree", TREE_NAME)
    if not isinstance(tree, str):
        raise JetfmError(f"{path}: tree", repr(tree), "the name of a tree")
    if not isinstance(classes, dict):
        raise JetfmError(f"{path}: classes", repr(classes), "a map, e.g. QCD: jet_label >= 161")
    if pt_range is not None:
        pt_range = _checked_range(f"{path}: pt_range", pt_range)
    named = tuple(_pair(path, "the name of a column", pair) for pair in values.items())
    by_expression = tuple(_pair(f"{path}: classes", "an expression", p) for p in classes.items())
    return Layout(named, by_expression, pt_range, tree, str(path))


def with_classes(layout: Layout, text: str) -> tuple[Layout, tuple[str, ...]]:
    """Classes as the command line has them: names, some with an expression after a colon.

    ``QCD: jet_label >= 161, Hbb: jet_label == 0`` says what they are; ``QCD,Hbb`` takes those of
    the map or of the files. Returns the layout with the expressions, and the names in order.
    """
    names, expressions = [], dict(layout.classes)
    for one in text.split(","):
        name, colon, expression = (part.strip() for part in one.partition(":"))
        if not name and not colon:
            continue
        names.append(name)
        if colon:
            expressions[name] = expression
    where = "--classes" if dict(layout.classes) != expressions else layout.where
    return replace(layout, classes=tuple(expressions.items()), where=where), tuple(names)


def known_classes(names: Iterable[str], own: Collection[str]) -> tuple[str, ...]:
    """Names of classes as the jets have them, before any jet is read.

    Parameters
    ----------
    own : names beside JetClass's, of `Layout.class_names` or of a jets store

    Raises
    ------
    JetfmError
        A class that is neither.
    """
    found = []
    for name in names:
        try:
            found.append(name if name in own else class_by_name(name).name)
        except JetfmError as error:
            others = [one for one in own if one not in CLASS_NAMES]
            expected = error.expected + (f", or {', '.join(others)}" if others else "")
            raise JetfmError(error.where, error.found, expected) from None
    return tuple(found)


def _pair(where: object, kind: str, pair: tuple) -> tuple[str, str]:
    key, value = pair
    if not isinstance(key, str) or not isinstance(value, str) or not value.strip():
        raise JetfmError(f"{where}: {key}", repr(value), kind)
    return key, value.strip()


def _checked_range(where: str, value: object) -> tuple[float, float]:
    good = isinstance(value, list) and len(value) == 2
    good = good and all(type(one) in (int, float) for one in value)
    if not good or not 0 <= value[0] < value[1]:
        raise JetfmError(where, repr(value), "two numbers in GeV, rising, e.g. [200, 2500]")
    return float(value[0]), float(value[1])


def _listed(found: Collection[str]) -> str:
    names = sorted(found)
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return f"columns {', '.join(names[:_MANY])}{more}" if names else "no columns"
