"""Boosted trees that tell two sets of jets apart by their observables.

Of few hundred jets they see far more than DeepSets does: momenta rounded to two bits, say.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from jetfm.judging.compare import quantities
from jetfm.judging.jet_sample import JetSample


def separation(one: JetSample, other: JetSample) -> tuple[float, float]:
    """AUC on jets that the trees were not trained on, and its standard deviation by chance."""
    sides = [np.stack(list(quantities(side).values()), 1) for side in (one, other)]
    features, labels = np.concatenate(sides), np.repeat([0, 1], [len(side) for side in sides])
    trees = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(trees, features, labels, cv=folds, method="predict_proba")[:, 1]
    chance = np.sqrt(sum(1 / len(side) for side in sides) / 12)
    return float(roc_auc_score(labels, scores)), float(chance)
