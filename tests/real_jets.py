"""Real jets of JetClass and the Top Landscape, for tests where a folder of them is at hand.

They are not ours to ship. ``JETFM_REAL_JETS`` names the folder; by default it is ``shared/real``
beside the project. Each file holds flat arrays, jet after jet: four-momenta in GeV, the number of
constituents 'N' of each jet and its 'label'.
"""

from __future__ import annotations

import os
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from tests.data import jetclass_files, toplandscape_files

FOLDER = Path(os.environ.get("JETFM_REAL_JETS", Path(__file__).parents[2] / "shared" / "real"))
JETCLASS, TOPLANDSCAPE = "jetclass_500.npz", "toplandscape_1000.npz"

needed = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real jets in {FOLDER}")


def load(name: str) -> dict[str, np.ndarray]:
    """Arrays of a file."""
    with np.load(FOLDER / name, allow_pickle=False) as arrays:
        return dict(arrays)


def jetclass_file(path: Path) -> Path:
    """The real jets of JetClass as its ROOT files have them; what is not known is made up."""
    real = load(JETCLASS)
    counts = real["N"]
    columns = jetclass_files.random_jets(counts)
    for name in ("px", "py", "pz", "energy", "deta", "dphi"):
        columns[f"part_{name}"] = ak.unflatten(real[name], counts)
    px, py, pz, energy = (ak.to_numpy(ak.sum(columns[f"part_{n}"], 1)).astype(float)
                          for n in ("px", "py", "pz", "energy"))  # fmt: skip
    pt = np.hypot(px, py)
    jet = {"pt": pt, "eta": np.arcsinh(pz / pt), "phi": np.arctan2(py, px), "energy": energy}
    columns |= {f"jet_{name}": values.astype(np.float32) for name, values in jet.items()}
    for number, label in enumerate(name for name in columns if name.startswith("label_")):
        columns[label] = (real["label"] == number).astype(columns[label].dtype)
    return jetclass_files.write(path, columns)


def toplandscape_file(path: Path) -> Path:
    """The real jets of the Top Landscape as its h5 files have them."""
    real = load(TOPLANDSCAPE)
    mask = np.arange(200) < real["N"][:, None]
    momenta = np.zeros((*mask.shape, 4), np.float32)
    for column, name in enumerate(("energy", "px", "py", "pz")):
        momenta[mask, column] = real[name]
    return toplandscape_files.write(path, toplandscape_files.frame(momenta, real["label"]))
