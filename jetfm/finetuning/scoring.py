"""Score a user's jets, labelled or not, with a classifier that was trained before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow import parquet

from jetfm.data.jet_files import Paths, named, several
from jetfm.data.layout import JETCLASS, Layout
from jetfm.data.own_jets import store_of
from jetfm.errors import JetfmError
from jetfm.finetuning.classifier import Classifier
from jetfm.finetuning.scores_file import places_of, scores_table
from jetfm.physics.statistics import Estimate, share_of
from jetfm.storage.files import make_folder, naming, replacing


@dataclass(frozen=True)
class Summary:
    """What was scored; `accuracy` is that of the jets of the classifier's classes, if any.

    `labelled_classes` are those of the classifier's `classes` that some jet is of.
    """

    n_jets: int
    n_labelled: int
    classes: tuple[str, ...]
    accuracy: Estimate | None
    labelled_classes: tuple[str, ...] = ()


def score_files(
    classifier: str | Path | Classifier,
    jets: Paths,
    out: str | Path,
    any_pt: bool = False,
    progress: bool = True,
    layout: Layout = JETCLASS,
) -> Summary:
    """Write the scores of all jets, as `jetfm.finetuning.scores_file` lays them out.

    Memory does not grow with the number of jets. Files become a jets store first, which is removed
    at the end: of many jets make one before (``jetfm convert``).

    Parameters
    ----------
    classifier : folder that ``jetfm finetune`` left, or what it holds
    jets : a jets store, or files as `jetfm.data.own_jets.store_of` takes them; labels may be absent
    out : parquet file
    any_pt : take jets of another pt than those that the classifier was trained on
    layout : what the files call their branches, and classes by expression

    Raises
    ------
    JetfmError
        No such classifier, unreadable files, files without a feature that the classifier needs,
        jets of another pt, a file among them at `out`, or no room or permission there.
    """
    out = Path(out)
    taken = {path.resolve() for path in several(jets)} & {out.resolve(), *out.resolve().parents}
    if out.exists() and taken:  # it would be read as jets, and then replaced
        raise JetfmError(out, "a file that is there, among the jets", "another one for the scores")
    if out.is_dir() or out.suffix != ".parquet":
        found = "a folder" if out.is_dir() else f"a file with the suffix {out.suffix!r}"
        raise JetfmError(out, found, "a parquet file for the scores, e.g. scores.parquet")
    known = classifier if isinstance(classifier, Classifier) else Classifier.load(classifier)
    folder, n_jets, n_labelled, n_right = make_folder(out.parent), 0, 0, 0
    present: set[int] = set()
    with naming(out):
        aside_folder = TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=folder)
    with (
        aside_folder as scratch,
        replacing(out) as aside,
    ):
        features = known.preprocessing.features
        store = store_of(jets, Path(scratch) / "jets", progress, features, True, layout)
        writer = None
        try:
            for chunk in known.scored(store, scratch, any_pt, progress, named(jets)):
                table = scores_table(
                    chunk.jets, chunk.labels, chunk.log_p, known.classes, store.class_names
                )
                writer = writer or parquet.ParquetWriter(aside, table.schema)
                writer.write_table(table)
                places = places_of(chunk.labels, known.classes, store.class_names)
                n_jets += len(places)
                present.update(places[places >= 0].tolist())
                n_labelled += int((places >= 0).sum())
                n_right += int((chunk.log_p.argmax(1) == places).sum())
        finally:
            if writer is not None:
                writer.close()
    found = share_of(n_right, n_labelled) if n_labelled else None
    labelled = tuple(known.classes[place] for place in sorted(present))
    return Summary(n_jets, n_labelled, known.classes, found, labelled)
