"""Names that everything shares: classes, file branches, constituent features, jet columns.

Sources: the dataset card of JetClass (DOI 10.5281/zenodo.6619768) and the notebook
``JetClass101.ipynb`` of jet-universe/particle_transformer for branch names and types, mixed label
types included.
"""

from __future__ import annotations

from dataclasses import dataclass

from jetfm.errors import JetfmError


@dataclass(frozen=True)
class JetClassLabel:
    """One of the ten jet classes of JetClass.

    Attributes
    ----------
    index : position in label order
    name : label without ``label_``
    prefix : prefix of the class's ROOT files
    latex : decay, for plots
    """

    index: int
    name: str
    prefix: str
    latex: str


CLASSES: tuple[JetClassLabel, ...] = tuple(
    JetClassLabel(index, *row)
    for index, row in enumerate(
        [
            ("QCD", "ZJetsToNuNu", r"$q/g$"),
            ("Hbb", "HToBB", r"$H\to b\bar{b}$"),
            ("Hcc", "HToCC", r"$H\to c\bar{c}$"),
            ("Hgg", "HToGG", r"$H\to gg$"),
            ("H4q", "HToWW4Q", r"$H\to 4q$"),
            ("Hqql", "HToWW2Q1L", r"$H\to \ell\nu qq'$"),
            ("Zqq", "ZToQQ", r"$Z\to q\bar{q}$"),
            ("Wqq", "WToQQ", r"$W\to qq'$"),
            ("Tbqq", "TTBar", r"$t\to bqq'$"),
            ("Tbl", "TTBarLep", r"$t\to b\ell\nu$"),
        ]
    )
)

#: Names of the labels 0, 1, ... of jets; jets of a user's own classes have others after them.
CLASS_NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES)

TREE_NAME = "tree"

SETTINGS_KEY = "jetfm"  # name of the JSON text that jetfm writes beside the tree

UNLABELLED = "unlabelled"  # its entry that says: jets of no known class

SPLITS = ("train", "val", "test")

_PART_FLOATS = (
    "part_px part_py part_pz part_energy part_deta part_dphi "
    "part_d0val part_d0err part_dzval part_dzerr part_charge"
).split()
_PART_FLAGS = (
    "part_isChargedHadron part_isNeutralHadron part_isPhoton part_isElectron part_isMuon"
).split()
_JET_FLOATS = (
    "jet_pt jet_eta jet_phi jet_energy jet_nparticles jet_sdmass "
    "jet_tau1 jet_tau2 jet_tau3 jet_tau4"
).split()
_AUX_FLOATS = (
    "aux_genpart_eta aux_genpart_phi aux_genpart_pid aux_genpart_pt aux_truth_match"
).split()
_LABEL_TYPES = ("f4", "bool", "bool", "bool", "bool", "bool", "i4", "i4", "i4", "i4")

#: The 41 branches of the tree, in order, with their type; those named ``part_*`` are jagged.
BRANCHES: dict[str, str] = (
    dict.fromkeys(_PART_FLOATS, "f4")
    | dict.fromkeys(_PART_FLAGS, "i4")
    | {f"label_{c.name}": dtype for c, dtype in zip(CLASSES, _LABEL_TYPES, strict=True)}
    | dict.fromkeys(_JET_FLOATS + _AUX_FLOATS, "f4")
)

#: Physical constituent features: GeV and mm; angles relative to the constituents' vector sum.
CONSTITUENT_FEATURES: tuple[str, ...] = (
    "pt",
    "eta_rel",
    "phi_rel",
    "mass",
    "charge",
    "is_charged_hadron",
    "is_neutral_hadron",
    "is_photon",
    "is_electron",
    "is_muon",
    "d0val",
    "d0err",
    "dzval",
    "dzerr",
)

#: Those that both papers start from.
KINEMATICS = CONSTITUENT_FEATURES[:3]

#: Columns of a jet: as in the file, then the vector sum of its constituents (``axis_*``).
JET_COLUMNS: tuple[str, ...] = (
    "label",
    "pt",
    "eta",
    "phi",
    "energy",
    "sdmass",
    "tau1",
    "tau2",
    "tau3",
    "tau4",
    "axis_pt",
    "axis_eta",
    "axis_phi",
)


def is_jagged(branch: str) -> bool:
    """Whether a branch holds one value per constituent, not per jet."""
    return branch.startswith("part_")


def latex_of(name: str) -> str:
    """Decay of a class, for plots; a class that JetClass does not have keeps its name."""
    return next((c.latex for c in CLASSES if c.name == name), name)


def class_by_name(name: str) -> JetClassLabel:
    """Class with this label (``Tbqq`` or ``label_Tbqq``) or file prefix (``TTBar``).

    Raises
    ------
    JetfmError
        No such class.
    """
    wanted = str(name).removeprefix("label_")
    for jet_class in CLASSES:
        if wanted in (jet_class.name, jet_class.prefix):
            return jet_class
    known = ", ".join(c.name for c in CLASSES)
    raise JetfmError("class", repr(str(name)), f"one of {known}, or a JetClass file prefix")
