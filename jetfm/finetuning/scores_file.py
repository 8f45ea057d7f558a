"""``scores.parquet``: a row a jet, with the probability of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jetfm.schema import CLASS_NAMES


def places_of(
    labels: np.ndarray, classes: Sequence[str], names: Sequence[str] = CLASS_NAMES
) -> np.ndarray:
    """(n,) int64 places among `classes` of labels that have these names; -1 for no place."""
    places = [classes.index(name) if name in classes else -1 for name in names]
    return np.array([*places, -1])[labels]  # the last one: unknown


def scores_table(
    jets: np.ndarray,
    labels: np.ndarray,
    log_p: np.ndarray,
    classes: Sequence[str],
    names: Sequence[str] = CLASS_NAMES,
) -> pa.Table:
    """Scores as they are written.

    Parameters
    ----------
    jets : (n,) places in the files
    labels : (n,) places among `names`, -1 unknown
    log_p : (n, K) logarithms of the probabilities of `classes`
    names : of the labels, in their store

    Returns
    -------
    'jet'; 'label', the place of its class among `classes`, null where it is none of them; 'class',
    null where it is unknown; 'p_NAME' for each of `classes`
    """
    places = places_of(labels, classes, names)
    of_jets = np.array([*names, None], object)[labels]
    columns = {"jet": pa.array(np.asarray(jets, np.int64))}
    columns["label"] = pa.array(places, pa.int64(), mask=places < 0)
    columns["class"] = pa.array(of_jets, pa.string())
    for column, name in enumerate(classes):
        columns[f"p_{name}"] = pa.array(np.exp(log_p[:, column]))
    return pa.table(columns)
