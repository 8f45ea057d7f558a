"""Small parquet files of jets for tests: random jets of `jetclass_files`, in any list column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tests.data.jetclass_files import random_jets

KINDS = ("list", "large_list", "fixed_size_list", "list_view")


def jagged(array: ak.Array, kind: str = "list") -> pa.Array:
    """A list column; those of fixed size are padded with zeros."""
    counts, flat = ak.to_numpy(ak.num(array)), pa.array(ak.to_numpy(ak.flatten(array)))
    ends = np.cumsum(counts)
    if kind == "fixed_size_list":
        length = int(counts.max(initial=1))
        padded = np.zeros((len(counts), length), flat.to_numpy(zero_copy_only=False).dtype)
        padded[np.arange(length) < counts[:, None]] = flat.to_numpy(zero_copy_only=False)
        return pa.FixedSizeListArray.from_arrays(pa.array(padded.ravel()), length)
    if kind == "list_view":
        starts = pa.array((ends - counts).astype(np.int32))
        return pa.ListViewArray.from_arrays(starts, pa.array(counts.astype(np.int32)), flat)
    offsets = np.concatenate([[0], ends])
    if kind == "large_list":
        return pa.LargeListArray.from_arrays(pa.array(offsets.astype(np.int64)), flat)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)


def write(path: Path, columns: Mapping, kind: str = "list", metadata=None, **options) -> Path:
    """Write columns by the names of the file; options are those of `parquet.write_table`."""
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, pa.Array):
            arrays[name] = values
        else:
            one = isinstance(values, ak.Array) and values.ndim == 2
            arrays[name] = jagged(values, kind) if one else pa.array(np.asarray(values))
    table = pa.table(arrays)
    if metadata is not None:
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, path, **options)
    return path


def parquet_file(
    path: Path, counts=(3, 40, 1, 2, 131, 17, 25, 60, 9, 33), seed=0, kind="list", options=None,
    **changed,
) -> Path:  # fmt: skip
    """Random jets in JetClass's columns, some of them replaced, added, or dropped where None."""
    columns = random_jets(counts, seed) | changed
    kept = {name: array for name, array in columns.items() if array is not None}
    return write(path, kept, kind, **(options or {}))


def polar(columns: Mapping) -> dict:
    """(pt, eta, phi, mass) of the constituents in float64, by the names of a file of one's own."""
    counts = ak.num(columns["part_px"])
    px, py, pz, energy = (
        ak.to_numpy(ak.flatten(columns[f"part_{name}"])).astype(np.float64)
        for name in ("px", "py", "pz", "energy")
    )
    pt = np.hypot(px, py)
    mass = np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0))
    flat = {"pt": pt, "eta": np.arcsinh(pz / pt), "phi": np.arctan2(py, px), "mass": mass}
    return {name: ak.unflatten(values, counts) for name, values in flat.items()}


def label_numbers(columns: Mapping) -> np.ndarray:
    """One integer for the label of each jet, its class index."""
    labels = [columns[name] for name in columns if name.startswith("label_")]
    return np.stack(labels, 1).argmax(1)
