"""``scores.parquet``: a row a jet, with the probability of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jetfm.schema import CLASSES, class_by_name


def places_of(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """(n,) int64 places among `classes` of labels of the schema (-1 unknown); -1 for no place."""
    places = np.full(len(CLASSES) + 1, -1)  # the last one: unknown
    places[[class_by_name(name).index for name in classes]] = range(len(classes))
    return places[labels]


def scores_table(
    jets: np.ndarray, labels: np.ndarray, log_p: np.ndarray, classes: Sequence[str]
) -> pa.Table:
    """Scores as they are written.

    Parameters
    ----------
    jets : (n,) places in the files
    labels : (n,) of the schema, -1 unknown
    log_p : (n, K) logarithms of the probabilities of `classes`

    Returns
    -------
    'jet'; 'label', the place of its class among `classes`, null where it is none of them; 'class',
    null where it is unknown; 'p_NAME' for each of `classes`
    """
    places = places_of(labels, classes)
    names = np.array([c.name for c in CLASSES] + [None], object)[labels]
    columns = {"jet": pa.array(np.asarray(jets, np.int64))}
    columns["label"] = pa.array(places, pa.int64(), mask=places < 0)
    columns["class"] = pa.array(names, pa.string())
    for column, name in enumerate(classes):
        columns[f"p_{name}"] = pa.array(np.exp(log_p[:, column]))
    return pa.table(columns)
