"""Hard processes of the two campaigns, as settings of Pythia 8.

JetClass was generated with MadGraph at leading order and showered by Pythia 8; its process cards
were not available to us. We generate the same final states with Pythia's own matrix elements (our
choice):

========  ======================================================================================
class     process
========  ======================================================================================
QCD       q qbar -> Z g, q g -> Z q, and dijets whose shower radiates a Z, with Z -> nu nu
H...      f fbar -> H Z with Z -> nu nu and the Higgs decay of the class; m_H = 125 GeV
Zqq       f fbar -> Z Z, both hadronic: two jets an event instead of one
Wqq       f fbar -> W+ W-, both hadronic, likewise
Tbqq      g g, q qbar -> t tbar, both hadronic
Tbl       the same, both leptonic with e or mu
========  ======================================================================================

Decays that need both charge combinations (H -> l nu q q') alternate between them from event to
event. The lower cut on the transverse momentum of the hard process saves events that cannot pass
the jet selection. Underlying event, shower and hadronisation are Pythia's defaults (Monash 2013).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jetfm.errors import JetfmError


@dataclass(frozen=True)
class Process:
    """How to generate one class.

    Attributes
    ----------
    settings : Pythia settings
    pt_hat_min : lower cut on the transverse momentum of the hard process, GeV
    resonance : |PDG code| of the particle whose decay makes the jet; 0 for QCD
    variants : decay settings between which events alternate
    match_resonance : whether the resonance itself must lie in the jet too
    required : |PDG code| of a stable particle of which events must have one when the parton shower
        is over; others are not finished. 0 for none
    sources : processes whose jets are mixed, with their shares; the other entries then say nothing
    """

    settings: tuple[str, ...] = ()
    pt_hat_min: float = 0.0
    resonance: int = 0
    variants: tuple[tuple[str, ...], ...] = ((),)
    match_resonance: bool = False
    required: int = 0
    sources: tuple[tuple[float, Process], ...] = ()


@dataclass(frozen=True)
class Campaign:
    """A set of classes generated alike, and the jets selected from them.

    Attributes
    ----------
    settings : Pythia settings common to all classes
    processes : by class name
    pt_range : of selected jets, GeV, open interval
    eta_max : of selected jets
    detector : card used unless another is asked for
    max_constituents : leading constituents kept in files; None for all
    """

    settings: tuple[str, ...]
    processes: dict[str, Process]
    pt_range: tuple[float, float]
    eta_max: float
    detector: str
    max_constituents: int | None = None


def _decay(particle: int, *rules: str) -> tuple[str, ...]:
    return (f"{particle}:onMode = off", *(f"{particle}:{rule}" for rule in rules))


_INVISIBLE_Z = _decay(23, "onIfAny = 12 14 16")
_QUARKS = "onIfAny = 1 2 3 4 5"
_LEPTONS = "onIfAny = 11 13"
_HZ = ("HiggsSM:ffbar2HZ = on", "25:m0 = 125.", *_INVISIBLE_Z)
_TTBAR = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")
_HIGGS_WW = _decay(25, "onIfMatch = 24 -24")
_MIXED_W = (
    ("24:onMode = off", "24:onPosIfAny = 1 2 3 4 5", "24:onNegIfAny = 11 13"),
    ("24:onMode = off", "24:onNegIfAny = 1 2 3 4 5", "24:onPosIfAny = 11 13"),
)

# JetClass's q/g jets come from Z -> nu nu with several partons from matrix elements, all passing
# jets of an event kept, and without a cut on the Z. Most of them then are jets of dijets to which a
# soft Z is added, and a third are gluons' (Z + one parton alone: 16 %). Pythia makes both: Z + one
# parton, and dijets whose shower radiates a Z. Cross-sections of passing jets (pT 500 to 1000 GeV,
# |eta| < 2), parton level without multi-parton interactions, before the Z decays: 1.13 pb (16 % of
# gluons) and 4.4 pb (40 +- 2 %), of 1000 and 140,000 events. Mixing by cross-section is our choice.
# A Z that is hard and collinear is counted in both.
_RADIATED_Z = (
    "HardQCD:all = on",
    "TimeShower:weakShower = on",
    "SpaceShower:weakShower = on",
    "TimeShower:weakShowerMode = 2",  # Z, no W
    "SpaceShower:weakShowerMode = 2",
    # One event in 230 has a Z; with 20 times as many one in 13. Those with two are left out.
    "WeakShower:enhancement = 20.",
    "23:mayDecay = off",  # the shower's Z would decay into anything; as it is, nothing sees it
)
_HARD_Z = (
    "WeakBosonAndParton:qqbar2gmZg = on",
    "WeakBosonAndParton:qg2gmZq = on",
    "WeakZ0:gmZmode = 2",
    *_INVISIBLE_Z,
)
_HARD_Z_SHARE = 0.21

CAMPAIGNS: dict[str, Campaign] = {
    # 13 TeV: the JetClass paper (arXiv:2202.03772); cuts: jetclass_generation, mergeTrees.C.
    "jetclass": Campaign(
        settings=("Beams:eCM = 13000.",),
        pt_range=(500.0, 1000.0),
        eta_max=2.0,
        detector="cms",
        processes={
            "QCD": Process(
                sources=(
                    (_HARD_Z_SHARE, Process(_HARD_Z, 470.0)),
                    (1 - _HARD_Z_SHARE, Process(_RADIATED_Z, 470.0, required=23)),
                )
            ),
            "Hbb": Process((*_HZ, *_decay(25, "onIfMatch = 5 -5")), 470.0, 25),
            "Hcc": Process((*_HZ, *_decay(25, "onIfMatch = 4 -4")), 470.0, 25),
            "Hgg": Process((*_HZ, *_decay(25, "onIfMatch = 21 21")), 470.0, 25),
            "H4q": Process((*_HZ, *_HIGGS_WW, *_decay(24, _QUARKS)), 470.0, 25),
            "Hqql": Process((*_HZ, *_HIGGS_WW), 500.0, 25, _MIXED_W),
            "Zqq": Process(
                (
                    "WeakDoubleBoson:ffbar2gmZgmZ = on",
                    "WeakZ0:gmZmode = 2",
                    *_decay(23, _QUARKS),
                ),
                470.0,
                23,
            ),
            "Wqq": Process(
                ("WeakDoubleBoson:ffbar2WW = on", *_decay(24, _QUARKS)),
                470.0,
                24,
            ),
            "Tbqq": Process((*_TTBAR, *_decay(24, _QUARKS)), 470.0, 6),
            "Tbl": Process((*_TTBAR, *_decay(24, _LEPTONS)), 490.0, 6),
        },
    ),
    # The dataset card of the Top Landscape, DOI 10.5281/zenodo.2603256, but for one thing: it says
    # that multiple interactions are ignored, and the jets have them. Without, real ones have some
    # three more constituents below 1.5 GeV, spread evenly over the jet's area.
    "toplandscape": Campaign(
        settings=("Beams:eCM = 14000.",),
        pt_range=(550.0, 650.0),
        eta_max=2.0,
        detector="atlas-2015",
        max_constituents=200,
        processes={
            "QCD": Process(("HardQCD:all = on",), 510.0),
            "Tbqq": Process((*_TTBAR, *_decay(24, _QUARKS)), 510.0, 6, match_resonance=True),
        },
    ),
}
# As its description has it, without multiple interactions: for notebook 00, which shows them.
CAMPAIGNS["toplandscape-described"] = replace(
    CAMPAIGNS["toplandscape"],
    settings=(*CAMPAIGNS["toplandscape"].settings, "PartonLevel:MPI = off"),
)


def campaign_by_name(name: str) -> Campaign:
    """Campaign of this name, or a JetfmError."""
    if name not in CAMPAIGNS:
        raise JetfmError("campaign", repr(str(name)), f"one of {', '.join(CAMPAIGNS)}")
    return CAMPAIGNS[name]
