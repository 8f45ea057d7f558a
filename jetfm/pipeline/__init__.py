"""The stages in order: what each needs, what it makes, and where its work is kept.

A ``Pipeline`` belongs to one profile. Asking it for a result makes that result and everything it
depends on, or finds them (`jetfm.storage.artifacts`). Nothing passes from stage to stage in memory:

    jets -> store -> tokenizer -> tokens -> pretraining -----------> generated -> its quality
              |                     |            `-> fine-tuning <- other jets
              |                     |-> token quality    |              |
              |                     `-> models of some classes ---------|
              `-> EPiC-FM, density -------------------------------------'
"""

from __future__ import annotations

from pathlib import Path

from jetfm import ledger
from jetfm.errors import JetfmError
from jetfm.pipeline.classifiers import ClassifierStages


class Pipeline(ClassifierStages):
    """All stages of one profile, the ledger and the gallery of figures.

    Parameters
    ----------
    profile : name of a shipped profile, path of a YAML file, or a Profile
    progress : show progress bars
    say : told which stage starts, ends, or is found done
    """

    def ledger(self) -> list[dict]:
        """Every claim beside what was measured; written to ``ledger.json`` of the figures."""
        from jetfm.ledger.measurements import measure

        book = ledger.Ledger(self.profile.name)
        results = (self.token_quality(), self.token_classifiers(), self.generation())
        measure(book, *results, self.finetuning())
        book.save(self.figures / "ledger.json")
        return book.entries()

    def gallery(self) -> list[tuple[str, Path]]:
        """Caption and picture of every figure of the notebooks, in order.

        Raises
        ------
        JetfmError
            A figure that has not been made yet; names the notebook that makes it.
        """
        from jetfm.figures import CAPTIONS

        pictures = []
        for name, caption in CAPTIONS.items():
            path = self.figures / f"{name}.png"
            if not path.exists():
                raise JetfmError(path, "no such figure", f"notebook {name[3:5]} to have run")
            pictures.append((caption, path))
        return pictures
