"""From the stages' results to the ledger's measurements: one place that says what is compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtr, ndtri

from jetfm.finetuning import Finetuning, TaskResults
from jetfm.finetuning.scores import FEW_PASSED
from jetfm.judging.metrics import QUANTITIES
from jetfm.judging.study import GenerativeStudy
from jetfm.ledger.claims import TAGGING, TRANSFER
from jetfm.ledger.contrasts import Term, contrast, n_common
from jetfm.ledger.verdicts import Ledger, Measurement
from jetfm.physics.statistics import standard_error
from jetfm.settings import COMBINED
from jetfm.token_quality.classifiers import TokenClassifiers
from jetfm.token_quality.study import TokenQuality, TokenQualityStudy

_SIGNS = np.array([1, -1, -1, 1])  # of the accuracies in a difference of differences
_TEST_JETS = "binomial"  # uncertainty from test jets as if each accuracy had others
SIMILAR = 1.5  # codebooks that differ by less than this factor are of similar size
FEW_FITS = 3  # of a size that is averaged with others; our choice


def measure(
    book: Ledger,
    quality: TokenQualityStudy,
    maps: Iterable[dict],
    classifiers: TokenClassifiers,
    generated: GenerativeStudy,
    study: Finetuning,
) -> None:
    """Fill the ledger from finished stages; `maps` are those of `token_map.map_data`."""
    _token_quality(book, quality)
    _token_maps(book, quality, maps)
    _token_classifiers(book, classifiers, quality)
    _generation(book, generated)
    for claims, tasks, fill in (
        (TAGGING, ("tagging",), _tagging),
        (TRANSFER, ("ten-classes", "landscape"), _transfer),
    ):
        if not set(tasks) <= set(study.tasks):
            book.out_of_reach |= dict.fromkeys(claims, "the profile has no such task")
            continue
        leaked = sum(study[task].n_leaked for task in tasks)
        if leaked:
            book.out_of_reach |= dict.fromkeys(claims, _leaked(leaked))
        else:
            fill(book, *(study[task] for task in tasks))


def _leaked(n_jets: int) -> str:
    return f"{n_jets} test jets are training or validation jets, too"


def _token_quality(book: Ledger, quality: TokenQualityStudy) -> None:
    """Paper 1's claims, on paper 1's kinds of tokenizers; the others stand in the tables only."""
    conditional = _family(quality, "conditional")
    unconditional, binned = _family(quality, "unconditional"), _family(quality, "binned")

    def put(claim: str, values: list[tuple], combine, note: str = "") -> None:
        """`combine` of some (value, uncertainty), by error propagation; None where one lacks."""
        if any(pair is None for pair in values):
            book.out_of_reach[claim] = "the profile lacks a tokenizer of this kind and size"
        elif any(number is None for pair in values for number in pair):
            book.out_of_reach[claim] = "residuals without a peak to fit"
        else:
            value, error = _propagated(values, combine)
            n_jets = quality["main"].result["n_signal_jets"]
            book.measured[claim] = Measurement(value, error, n_jets, 1, note)

    def fit(tokenizer, quantity: str, what: str):
        """The fitted 'sigma' or 'mean', or the 'bias', of the signal's residuals."""
        if tokenizer is None:
            return None
        found = quality[tokenizer["name"]].result["fits"][quantity]
        return found[what], found[f"{what}_error"]

    small, large = conditional.get(512), conditional.get(8192)
    plain = unconditional.get(512)
    put("unconditional-slope", [None if plain is None else _slope(quality[plain["name"]])], float)
    put("mass-resolution-512", [fit(small, "jet_mass", "sigma")], lambda x: x)
    put("mass-resolution-8192", [fit(large, "jet_mass", "sigma")], lambda x: x)
    put("unconditional-shift", [fit(plain, "jet_mass", "mean")], lambda x: -x)
    put("tau32-bias", [fit(large, "tau32", "bias")], lambda x: -x, "mean of all residuals")
    shifts = [fit(tokenizer, "tau32", "bias") for tokenizer in (plain, small)]
    put("tau32-shift-512", shifts, lambda *found: min(map(abs, found)) * _same_sign(found))
    others = [t for n, t in sorted(conditional.items()) if n != 8192]
    others += [*unconditional.values(), binned.get(21**3)]
    put(
        "conditional-best",
        [fit(t, "jet_mass", "sigma") for t in (large, *others)],
        lambda ours, *theirs: min(theirs) - ours,
        _names(*others),
    )
    pair = (_family(quality, "linear").get(8192), large)
    put("no-logarithm", [fit(t, "jet_mass", "sigma") for t in pair], np.divide)
    sizes = sorted(conditional)
    first, last = (conditional[sizes[0]], conditional[sizes[-1]]) if sizes else (None, None)
    put("mass-centred", [fit(first, "jet_mass", "mean")], lambda x: x, _centred(quality, first))
    ends = (first, last) if len(sizes) > 1 else (None, None)
    between = f"{sizes[0]} against {sizes[-1]} codes" if len(sizes) > 1 else ""
    put("mass-resolution-falls", [fit(t, "jet_mass", "sigma") for t in ends], np.subtract, between)
    put(
        "tau32-bias-falls",
        [fit(t, "tau32", "bias") for t in ends],
        lambda x, y: abs(x) - abs(y),
        between,
    )
    pair = _similar(unconditional, conditional)
    put(
        "unconditional-shift-exceeds",
        [fit(t, "jet_mass", "mean") for t in pair],
        lambda x, y: abs(x) - abs(y),
        _names(*pair),
    )
    grid = (binned.get(21**3), large)
    put("binned-mass", [fit(t, "jet_mass", "sigma") for t in grid], np.divide)
    fine = (binned.get(40**3), large)
    put("binned-fine", [fit(t, "jet_mass", "sigma") for t in fine], np.divide)
    pair = _similar(binned, conditional)
    spreads = [_spread(quality, tokenizer, "tau32", ["Tbqq"]) for tokenizer in pair]
    put("binned-tau32", spreads, np.subtract, _names(*pair))
    spreads = [_spread(quality, tokenizer, "jet_mass", ["Tbl", "Hqql"]) for tokenizer in pair]
    put("binned-leptons", spreads, np.subtract, _names(*pair))


def _token_maps(book: Ledger, quality: TokenQualityStudy, maps: Iterable[dict]) -> None:
    families = (_family(quality, family) for family in ("conditional", "unconditional"))
    pair = _similar(*families)
    if None in pair:
        book.out_of_reach["conditional-volume"] = "the profile lacks such a pair of tokenizers"
        return
    spreads = {one["tokenizer"]["name"]: one["spread"] for one in maps}
    volumes = [
        (spreads[one["name"]]["volume"], spreads[one["name"]]["volume_error"]) for one in pair
    ]
    value, error = _propagated(volumes, lambda ours, plain: math.log(ours / plain))
    note = f"{_names(*pair)}; each token decoded beside random others, without jets"
    book.measured["conditional-volume"] = Measurement(value, error, 0, 1, note)


def _slope(one: TokenQuality) -> tuple[float | None, float | None]:
    """N_rec/N_original of the lightest quarter of jets minus that of the heaviest.

    The uncertainty knows that both are the same jets.
    """
    before, after = (one.values(side, "jet_mass") for side in ("original", "reconstructed"))
    both = np.isfinite(before) & np.isfinite(after)
    if both.sum() < 2:
        return None, None
    light, heavy = np.quantile(before[both], [0.25, 0.75])
    sides = [(m < light).astype(float) - (m > heavy) for m in (after[both], before[both])]
    moved = 4 * (sides[0] - sides[1])
    return float(moved.mean()), standard_error(moved)


def _same_sign(values) -> int:
    """1 where all numbers have one sign, else -1."""
    return 1 if min(values) > 0 or max(values) < 0 else -1


def _family(quality: TokenQualityStudy, family: str) -> dict[int, dict]:
    """Descriptors of one kind of tokenizer, by codebook size."""
    return {t["n_codes"]: t for t in quality.tokenizers if t["family"] == family}


def _similar(one: dict[int, dict], other: dict[int, dict]) -> tuple:
    """The largest pair of tokenizers of two kinds whose codebooks are of similar size."""
    pairs = [(a, b) for a in one for b in other if max(a, b) < SIMILAR * min(a, b)]
    if not pairs:
        return None, None
    a, b = max(pairs)
    return one[a], other[b]


def _centred(quality: TokenQualityStudy, tokenizer: dict | None) -> str:
    """Which tokenizer's mass residuals, and where they are once jets are brought to scale."""
    found = quality.scaled.get(tokenizer["name"]) if tokenizer else None
    mean = found["fits"]["jet_mass"]["mean"] if found else None
    return _joined(
        _names(tokenizer), "" if mean is None else f"{mean:+.2f} GeV once jets are brought to scale"
    )


def _names(*tokenizers: dict | None) -> str:
    return " and ".join(t["label"] for t in tokenizers if t is not None)


def _spread(quality: TokenQualityStudy, tokenizer, quantity: str, classes: list[str]):
    """Standard deviation of the residuals of some classes together, and its uncertainty."""
    if tokenizer is None:
        return None
    one: TokenQuality = quality[tokenizer["name"]]
    values = np.concatenate([one.residuals(quantity, name) for name in classes])
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None, None
    squares = (values - values.mean()) ** 2
    variance = squares.mean()
    # from the fourth moment: residuals have tails
    return math.sqrt(variance), float(np.std(squares) / math.sqrt(len(values) * variance) / 2)


def _propagated(values: list[tuple[float, float]], combine) -> tuple[float, float]:
    """`combine` of the values, and its uncertainty to first order, without correlations.

    Each value is moved both ways, and the larger change counts: beside a kink, as of abs, one way
    alone would say too little.
    Too wide for differences: all tokenizers see the same jets.
    """
    centre = [value for value, _ in values]
    result = float(combine(*centre))
    shifts = []
    for i, (value, error) in enumerate(values):
        ends = (float(combine(*centre[:i], end, *centre[i + 1 :]))
                for end in (value - error, value + error))  # fmt: skip
        shifts.append(max(abs(end - result) for end in ends))
    return result, float(np.linalg.norm(shifts))


def _token_classifiers(
    book: Ledger, classifiers: TokenClassifiers, quality: TokenQualityStudy
) -> None:
    sizes = {
        tokenizer["n_codes"]: tokenizer["name"]
        for tokenizer in quality.tokenizers
        if tokenizer["name"] in classifiers.inputs and tokenizer["family"] == "conditional"
    }
    few = "fewer than two codebooks, or one seed, in the profile"

    def put(claim: str, classifier: str, inputs: list, note: str, weights=(1, 1, 1, 1)) -> None:
        if classifiers.n_leaked:
            book.out_of_reach[claim] = _leaked(classifiers.n_leaked)
        elif any(name is None for name in inputs):
            book.out_of_reach[claim] = "the profile lacks one of these codebooks"
        elif len(classifiers.accuracies(classifier, inputs[0])) < 2:
            book.out_of_reach[claim] = few
        else:
            terms = [
                Term(sign * weight, classifiers.accuracies(classifier, name))
                for name, sign, weight in zip(inputs, _SIGNS, weights, strict=False)
            ]
            means, factors = zip(*((term.runs.mean(), term.factor) for term in terms), strict=True)
            jets = _binomial(means, factors, classifiers.n_test)
            book.measured[claim] = _over_seeds(terms, classifiers.n_test, jets, note, _TEST_JETS)

    for classifier in ("deepsets", "transformer"):
        rises, below = f"{classifier}-rises", f"{classifier}-below-original"
        if not sizes:
            book.out_of_reach |= {rises: few, below: few}
            continue
        smallest, largest = min(sizes), max(sizes)
        put(below, classifier, ["original", sizes[largest]], f"{largest} codes")
        if smallest == largest:
            book.out_of_reach[rises] = few
        else:
            note = f"{smallest} against {largest} codes"
            put(rises, classifier, [sizes[largest], sizes[smallest]], note)
    # per doubling: (4096 - 512) / 3 - (8192 - 4096), in the order + - - +
    names = [sizes.get(size) for size in (4096, 512, 8192, 4096)]
    put("accuracy-plateau", "transformer", names, "gains per doubling", (1 / 3, 1 / 3, 1, 1))


def _generation(book: Ledger, study: GenerativeStudy) -> None:
    """Paper 1's claims on its own model by jet type, paper 2's on models trained alike."""
    combined, quarks, tops = (
        _model_of(study, *classes) for classes in (("QCD", "Tbqq"), ("QCD",), ("Tbqq",))
    )

    def put(claim: str, values, combine, names, note="") -> None:
        """`combine` of (value, uncertainty) pairs, None where a generator lacks."""
        if values is None:
            book.out_of_reach[claim] = "the profile lacks one of these generators"
            return
        if any(number is None for pair in values for number in pair):
            book.out_of_reach[claim] = "too few generated jets have the quantity"
            return
        n_jets = min(study.metrics(name)["n_jets"]["sample"] for name in names)
        steps = sorted({study.generators[name].steps for name in names})
        trained = f"trained for {' and '.join(map(str, steps))} steps"
        value, error = _propagated(values, combine)
        text = f"{trained}; {note}" if note else trained
        book.measured[claim] = Measurement(value, error, n_jets, 1, text)

    def auc(*names: str | None):
        if None in names:
            return None
        found = [study.metrics(name)["classifiers"].get("deepsets") for name in names]
        return None if None in found else [(one["auc"], one["auc_error"]) for one in found]

    names = [name for name in (combined, quarks, tops) if name is not None]
    tests = [study.metrics(name)["classifiers"].get("deepsets") or {} for name in names]
    n_tests = max((len(one.get("auc_of_tests", ())) for one in tests), default=1)
    text = "uncertainty: bootstrap over test jets"
    if n_tests > 1:
        text = f"mean of {n_tests} classifiers; {text}, and their spread"
    put("generation-auc", auc(combined), lambda x: x, [combined], text)
    put("generation-auc-single", auc(quarks, tops), lambda x, y: (x + y) / 2, [quarks, tops], text)
    pair = [quarks, tops]
    tau32 = tail = None
    if None not in pair:
        tail = [_excess(study.tails(name)["pt"]) for name in pair]
        tau32 = [_excess(study.metrics(name)["wasserstein"]["tau32"]) for name in pair]
    put("generation-pt-tail", tail, lambda x, y: (x + y) / 2, pair)
    put("generation-tau32", tau32, lambda of_quarks, of_tops: of_tops - of_quarks, pair)
    _tails(book, study, tops, put)
    _inputs(book, study, put, auc)


def _model_of(study: GenerativeStudy, *classes: str) -> str | None:
    """Paper 1's model that was trained on these classes and no others."""
    found = [name for name in study.only(classes) if study.generators[name].tokens]
    return found[0] if found else None


def _excess(measured: dict) -> tuple[float | None, float | None]:
    """A distance above its floor, and the uncertainty of the distance; None if undefined."""
    value, floor = measured["value"], measured["floor"]["value"]
    if value is None or floor is None:
        return None, None
    return value - floor, measured["uncertainty"]


def _tails(book: Ledger, study: GenerativeStudy, tops: str | None, put) -> None:
    """What paper 1 says of figure 18."""
    rivals = [n for n in study.only(("Tbqq",)) if not study.generators[n].tokens]
    if tops is None or not rivals:
        put("epic-fm-tails", None, None, [])
        put("epic-fm-eta-n", None, None, [])
    else:
        quantities = [q for q in QUANTITIES if q not in ("eta_rel", "n_constituents")]
        ours, theirs = (
            [_excess(study.tails(name)[q]) for q in quantities] for name in (tops, rivals[0])
        )
        n = len(quantities)

        def difference(*values: float) -> float:
            return (sum(values[:n]) - sum(values[n:])) / n

        note = "trained on the same jets; uncertainty as if quantities were independent"
        put("epic-fm-tails", ours + theirs, difference, [tops, rivals[0]], note)
        ours, theirs = (
            [_excess(study.tails(name)[q]) for q in ("eta_rel", "n_constituents")]
            for name in (tops, rivals[0])
        )
        note = "EPiC-FM is told the multiplicity, OmniJet-alpha is not"
        put(
            "epic-fm-eta-n",
            ours + theirs,
            lambda *values: (sum(values[:2]) - sum(values[2:])) / 2,
            [tops, rivals[0]],
            note,
        )
    if tops is None:
        put("epic-fm-pt", None, None, [])
        return
    found = {q: _excess(one) for q, one in study.tails(tops).items()}
    of_pt = found.pop("pt")
    found = {q: one for q, one in found.items() if one[0] is not None}
    if of_pt[0] is None or not found:
        book.out_of_reach["epic-fm-pt"] = "too few generated jets have the quantity"
        return
    worst = max(found, key=lambda q: found[q][0])
    put("epic-fm-pt", [of_pt, found[worst]], np.subtract, [tops], f"next to it: {worst}")


def _inputs(book: Ledger, study: GenerativeStudy, put, auc) -> None:
    """Paper 2's: what continuous input, and joint training with it, cost in generation."""
    claims = {"continuous-input-generates": "main", "joint-generates": "joint"}
    baseline = study.generators.get("ntp-token-id")
    for claim, name in claims.items():
        one = study.generators.get(name)
        if one is None or baseline is None:
            put(claim, None, None, [])
        elif one.steps != baseline.steps:
            text = f"trained for {one.steps} steps, the model of token ids for {baseline.steps}"
            book.out_of_reach[claim] = text
        else:
            names = [name, baseline.name]
            put(claim, auc(*names), np.subtract, names)


def _tagging(book: Ledger, study: TaskResults) -> None:
    """Paper 1's claims on its own model."""
    sizes = study.sizes

    def measured(*points: tuple[str, int], note: str = "") -> Measurement | str:
        """The first point, or that minus the second (and so on); points are weights and size."""
        return _of_accuracies(study, [[(COMBINED, *point)] for point in points], note)

    def put(claim: str, *points: tuple[str, int], note: str = "") -> None:
        _keep(book, claim, measured(*points, note=note))

    def gain(size: int) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("finetuned", size), ("scratch", size)

    put("finetune-100", ("finetuned", 100))
    put("finetune-1000", ("finetuned", 1000))
    put("scratch-1000", ("scratch", 1000))
    put("gain-100", *gain(100))
    put("gain-1000", *gain(1000))
    gains = [measured(*gain(size), note=f"{size} jets") for size in sizes]
    _keep(book, "gain-up-to", _largest(gains))
    _keep(book, "gain-everywhere", _smallest(gains))
    put("labels-100", ("finetuned", 100), ("scratch", 10_000))
    put("fixed-beats-scratch", ("fixed", 1000), ("scratch", 1000))
    if len(sizes) > 1:
        few, many = _ends(study, (COMBINED, "finetuned"), (COMBINED, "scratch"))
        put("gain-falls", *gain(few), *gain(many), note=f"{few} against {many} jets")
    else:
        book.out_of_reach["gain-falls"] = "one training size"
    put("gain-2M", *gain(2_000_000))
    put("open-beats-fixed", ("finetuned", 1000), ("fixed", 1000))
    pair = (COMBINED, "finetuned"), (COMBINED, "fixed")
    _keep(book, "open-near-fixed", _mean_difference(study, *pair))


def _sizes(study: TaskResults, *points: tuple[str, str], at_least: int = 1) -> list[int]:
    """Training sizes that all of some models and weights were fitted with, and of these the ones
    with `FEW_FITS` fits or more, if there are `at_least` so many: of two fits the spread says so
    little that nothing could be judged together with them. All where none is common: what lacks is
    then missed by name."""
    n_fits = {
        size: min(0 if row is None else len(row["accuracy"]) for row in rows)
        for size in study.sizes
        for rows in [[study.row(*point, size) for point in points]]
    }
    known = [size for size, n in n_fits.items() if n >= FEW_FITS]
    if len(known) >= at_least:
        return known
    return [size for size, n in n_fits.items() if n] or study.sizes


def _ends(study: TaskResults, *points: tuple[str, str]) -> tuple[int, int]:
    """The smallest and the largest of `_sizes`, different ones if any are."""
    sizes = _sizes(study, *points, at_least=2)
    return min(sizes), max(sizes)


def _mean_difference(study: TaskResults, *points: tuple[str, str]) -> Measurement | str:
    """Accuracy of one model and weights minus another's, mean over `_sizes`; or why not."""
    sizes = _sizes(study, *points)
    text = f"mean over {', '.join(map(str, sizes))} jets"
    return _of_accuracies(study, [[(*p, size) for size in sizes] for p in points], text)


def _of_accuracies(
    study: TaskResults, groups: Sequence[Sequence[tuple[str, str, int]]], note: str
) -> Measurement | str:
    """Accuracy of the first group, minus the second's, minus the same of a second pair; or why not.

    Parameters
    ----------
    groups : each of points, (model, weights, size), over which it is the mean
    """
    points = [point for group in groups for point in group]
    runs = {point: study.runs(*point, "accuracy") for point in points}
    if any(size not in study.sizes for _, _, size in points):
        return "this training size is not in the profile"
    if any(values is None for values in runs.values()):
        return "the profile lacks one of these models"
    terms = [
        Term(sign / len(group), runs[point], point[2], study.row(*point).get("n_pretrainings", 1))
        for sign, group in zip(_SIGNS, groups, strict=False)
        for point in group
    ]
    if n_common(terms) < 2:
        return "one seed has no spread"
    cut = _cut_short(study, points)
    if cut:
        return cut
    jets = _from_test_jets(study, groups)
    kind = "the same ones for all"
    if jets is None:
        means = [np.mean([runs[point].mean() for point in group]) for group in groups]
        jets, kind = _binomial(means, _SIGNS[: len(means)], study.n_test), _TEST_JETS
    return _over_seeds(terms, study.n_test, jets, _joined(note, _pretrainings(study, points)), kind)


def _from_test_jets(
    study: TaskResults, groups: Sequence[Sequence[tuple[str, str, int]]]
) -> float | None:
    """Uncertainty from the test jets, which all points share; None where it is not known which of
    them each got right."""
    total = np.zeros(1)
    for sign, group in zip(_SIGNS, groups, strict=False):
        for point in group:
            correct = study.correct(*point)
            if correct is None:
                return None
            total = total + sign * correct.mean(0) / len(group)
    return float(np.std(total, ddof=1) / math.sqrt(len(total)))


def _transfer(book: Ledger, ten: TaskResults, landscape: TaskResults) -> None:
    """Paper 2's claims: differences of accuracies, averaged over the training sizes."""

    def put(claim: str, study: TaskResults, *points: tuple[str, str]) -> None:
        """Model and weights, one against the other."""
        _keep(book, claim, _mean_difference(study, *points))

    def against(model: str, other: str) -> tuple[tuple[str, str], ...]:
        return (model, "finetuned"), (other, "finetuned")

    scratch = ("main", "scratch"), ("ntp-token-id", "scratch")
    put("input-scratch-ten-classes", ten, *scratch)
    put("input-scratch-landscape", landscape, *scratch)
    put("input-ten-classes", ten, *against("main", "ntp-token-id"))
    put("input-landscape", landscape, *against("main", "ntp-token-id"))
    _largest_gain(book, (ten, landscape))
    put("both-changes", landscape, *against("joint", "ntp-token-id"))
    put("mpm-beats-ntp", landscape, *against("mpm", "main"))
    put("joint-beats-ntp", landscape, *against("joint", "main"))
    put("joint-near-mpm", landscape, *against("joint", "mpm"))
    put("mpm-causal-like-ntp", landscape, *against("mpm-causal", "main"))
    put("bidirectional-matters", landscape, *against("mpm", "mpm-causal"))
    put("pretraining-beats-scratch", landscape, ("joint", "finetuned"), ("main", "scratch"))
    for claim, model in (("mpm-rejection", "mpm"), ("joint-rejection", "joint")):
        _rejection(book, claim, landscape, model)
    _gain_falls(book, landscape)


def _largest_gain(book: Ledger, studies: Iterable[TaskResults]) -> None:
    """The largest difference of accuracies between continuous and token-id input."""
    found = []
    for study in studies:
        for size in study.sizes:
            groups = [[(model, "finetuned", size)] for model in ("main", "ntp-token-id")]
            found.append(_of_accuracies(study, groups, f"{study.name}, {size} jets"))
    _keep(book, "input-gain", _largest(found))


def _keep(book: Ledger, claim: str, found: Measurement | str) -> None:
    """A measurement, or why there is none."""
    (book.out_of_reach if isinstance(found, str) else book.measured)[claim] = found


def _largest(found: list[Measurement | str]) -> Measurement | str:
    """The largest of several, any of which may have come out large by chance.

    Its uncertainty is widened so that all n of them together exceed two of it with the probability
    with which a single one does, if they are independent and there is nothing to find.
    """
    measured = [one for one in found if isinstance(one, Measurement)]
    if not measured:
        return found[0]
    largest = max(measured, key=lambda one: one.value)
    wider = ndtri(ndtr(2) ** (1 / len(measured))) / 2
    text = f"the largest of {len(measured)}, for which its uncertainty is {wider:.2f} times as wide"
    error, note = largest.uncertainty * wider, _joined(largest.note, text)
    return replace(largest, uncertainty=error, note=note)


def _smallest(found: list[Measurement | str]) -> Measurement | str:
    """The smallest of several, as `_largest`; all of them have to be there."""
    missing = [one for one in found if isinstance(one, str)]
    if missing:
        return missing[0]
    least = _largest([replace(one, value=-one.value) for one in found])
    return replace(
        least, value=-least.value, note=least.note.replace("the largest of", "the smallest of")
    )


def _rejection(book: Ledger, claim: str, study: TaskResults, model: str) -> None:
    """Logarithm of the ratio of background rejections at the largest of `_sizes`."""
    size = max(_sizes(study, (model, "finetuned"), ("main", "finetuned")))
    rows = [study.row(name, "finetuned", size) for name in (model, "main")]
    if any(row is None for row in rows):
        book.out_of_reach[claim] = "the profile lacks one of these models"
        return
    cut = _cut_short(study, [(name, "finetuned", size) for name in (model, "main")])
    if cut:
        book.out_of_reach[claim] = cut
        return
    passed = [np.mean(row["rejection30_passed"]) for row in rows]
    unbounded = any(None in row["rejection30"] for row in rows)  # a seed that none passed
    if min(passed) < FEW_PASSED or unbounded:
        found = " and ".join(f"{n:.0f}" for n in passed)
        text = f"limited: {found} background jets passed, of {study.n_test // 2}"
        book.out_of_reach[claim] = text
        return
    logs = [np.log(np.array(row["rejection30"], float)) for row in rows]
    turns = [row.get("n_pretrainings", 1) for row in rows]
    terms = [Term(sign, *one) for sign, *one in zip((1, -1), logs, (size,) * 2, turns, strict=True)]
    if n_common(terms) < 2:
        book.out_of_reach[claim] = "one seed has no spread"
        return
    jets = [
        np.mean(np.log(row["rejection30_high"]) - np.log(row["rejection30_low"])) / 2
        for row in rows
    ]
    found = contrast(terms)
    error = math.hypot(found.error, *jets)
    note = _joined(
        f"{size} jets; {passed[0]:.0f} and {passed[1]:.0f} background jets passed",
        "uncertainty: seeds (Student) and background jets (binomial)",
        _pretrainings(study, [(name, "finetuned", size) for name in (model, "main")]),
    )
    book.measured[claim] = Measurement(found.value, error, study.n_test, found.n_seeds, note)


def _gain_falls(book: Ledger, study: TaskResults) -> None:
    claim, pair = "fewer-labels-larger-gain", (("joint", "finetuned"), ("main", "scratch"))
    ends = _ends(study, *pair)
    points = [(*one, size) for size in ends for one in pair]
    if ends[0] == ends[1]:
        book.out_of_reach[claim] = "one training size"
    else:
        text = f"{ends[0]} against {ends[1]} jets"
        _keep(book, claim, _of_accuracies(study, [[point] for point in points], text))


def _pretrainings(study: TaskResults, points: list[tuple[str, str, int]]) -> str:
    """How often the models of these points were pre-trained, the fewest counting."""
    rows = [study.row(*point) for point in points if point[1] != "scratch"]
    if not rows:
        return ""
    n_least = min(row.get("n_pretrainings", 1) for row in rows)
    if n_least == 1:
        return "one pre-training each, whose own spread is not known"
    return f"{n_least} pre-trainings each, from which the seeds start in turn"


def _cut_short(study: TaskResults, points: list[tuple[str, str, int]]) -> str:
    """Why nothing is judged where fits were cut short; empty where all ended by themselves."""
    n_cut = sum(study.n_cut(*point) for point in points)
    total = sum(len(study.row(*point)["accuracy"]) for point in points)
    return f"{n_cut} of {total} fits were cut short by their limit of steps" if n_cut else ""


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _over_seeds(
    terms: Sequence[Term], n_test: int, jets: float, note: str, kind: str
) -> Measurement:
    """A sum of accuracies over seeds.

    The uncertainty adds in quadrature that over seeds (`jetfm.ledger.contrasts`) and what the test
    jets contribute, `jets`, of this `kind`.
    """
    found = contrast(terms)
    return Measurement(
        found.value,
        math.hypot(found.error, jets),
        n_test,
        found.n_seeds,
        _joined(note, f"uncertainty: seeds (Student) and test jets ({kind})"),
    )


def _binomial(accuracies: Sequence[float], factors: Sequence[float], n_test: int) -> float:
    """Uncertainty of a sum of accuracies from the test jets, as if each had others."""
    means = np.array(accuracies)
    return float(np.sqrt((np.square(factors) * means * (1 - means)).sum() / n_test))
