"""The stages in order: what each needs, what it makes, and where its work is kept.

A ``Pipeline`` belongs to one profile, and has the stages of each notebook as a part of its own.
Asking for a result makes it and everything that it depends on, or finds them
(`jetfm.storage.artifacts`). Nothing passes from stage to stage in memory:

    jets -> store -> tokenizer -> tokens -> pretraining -----------> generated -> its quality
              |                     |            `-> fine-tuning <- other jets
              |                     |-> token quality    |              |
              |                     `-> models of some classes ---------|
              `-> EPiC-FM, density -------------------------------------'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from jetfm import ledger
from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS, LEDGER, style
from jetfm.ledger.measurements import measure
from jetfm.pipeline.finetuning import FinetuningStages
from jetfm.pipeline.generation import GenerationStages
from jetfm.pipeline.jets import JetStages
from jetfm.pipeline.overview import StageGraph
from jetfm.pipeline.pretraining import PretrainingStages
from jetfm.pipeline.stage import Run, Stage, silent
from jetfm.pipeline.token_quality import TokenQualityStages
from jetfm.pipeline.tokenizers import TokenizerStages
from jetfm.runtime.cores import n_cores
from jetfm.runtime.parallel import run_fits
from jetfm.settings.profiles import Profile, load_profile
from jetfm.storage.artifacts import as_json
from jetfm.storage.paths import figures_folder


class Pipeline:
    """All stages of one profile, the ledger and the gallery of figures.

    What a stage reads stands where it is declared, as ``inputs=``, in the module of its notebook.

    Parameters
    ----------
    profile : name of a shipped profile, path of a YAML file, or a Profile
    progress : show progress bars
    say : told which stage starts, ends, or is found done
    only : figures; if any are named, no others are drawn, and no stages made that they don't read

    Attributes
    ----------
    jets, tokenizers, token_quality, pretraining, generation, finetuning : the stages of a notebook
    """

    def __init__(
        self,
        profile: str | Path | Profile = "smoke",
        progress: bool = True,
        say: Callable[[str], None] = print,
        only: Sequence[str] = (),
    ) -> None:
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self.run = run = Run(self.profile, progress, say, _make_in_worker)
        self.jets = JetStages(run)
        self.tokenizers = TokenizerStages(run, self.jets)
        self.token_quality = TokenQualityStages(run, self.jets, self.tokenizers)
        self.pretraining = PretrainingStages(run, self.tokenizers)
        shared = (run, self.jets, self.tokenizers, self.pretraining)
        self.generation = GenerationStages(*shared)
        self.finetuning = FinetuningStages(*shared, self.generation)
        self.only = tuple(only)
        if only:
            run.restrict(self.read_by(*only))
        style.use_style()

    def stages(self) -> StageGraph:
        """Every stage: what it needs, whether it is there, what it took; nothing is made."""
        parts = {
            "00 jets": self.jets,
            "01 tokenizers": self.tokenizers,
            "02 token quality": self.token_quality,
            "03 pre-training": self.pretraining,
            "04 generation": self.generation,
            "05 fine-tuning": self.finetuning,
        }
        return StageGraph({title: list(part.stages()) for title, part in parts.items()})

    def read_by(self, *figures: str) -> list[Stage]:
        """The stages that figures read, declared by the modules of their notebooks."""
        quality, generation = self.token_quality, self.generation
        parts = (self.jets, self.tokenizers, quality, self.pretraining, generation)
        found = [stage for figure in figures for part in parts for stage in part.read_by(figure)]
        found += self.finetuning.read_by(*figures)
        if LEDGER in figures:
            of_tokens = ("fig02_token_map", "fig02_token_quality", "fig02_classifiers")
            found += [stage for figure in of_tokens for stage in quality.read_by(figure)]
            found += map(generation.judged, generation.generators)
            found.append(self.finetuning.finetuned())
        return list({stage.key: stage for stage in found}.values())

    def ledger(self) -> list[dict]:
        """Every claim beside what was measured; written to ``ledger.json`` of the figures."""
        book = ledger.Ledger(self.profile.name)
        quality = self.token_quality
        results = (quality.study(), quality.maps(), quality.classifiers())
        measure(book, *results, self.generation.study(), self.finetuning.study())
        book.save(self.figures / "ledger.json")
        return book.entries()

    @cached_property
    def figures(self) -> Path:
        """Folder of this profile's figures."""
        return figures_folder(self.profile.name)

    def figure(self, name: str, draw: Callable[..., Figure], **data) -> Figure | None:
        """Draw a figure and save it as PDF, PNG and JSON; the JSON holds `data`.

        None, and nothing drawn, where the pipeline is to draw others alone.
        """
        if self.only and name not in self.only:
            return None
        figure, picture = _draw(draw, name, as_json(data), self.figures)
        style.show(picture, figure)
        return figure

    def figure_series(self, draw: Callable[..., Figure], series: Mapping[str, Mapping]) -> None:
        """Figures of one kind, drawn side by side and saved as `figure` does: data by name."""
        series = {n: data for n, data in series.items() if not self.only or n in self.only}
        tasks = [(draw, name, as_json(data), self.figures) for name, data in series.items()]
        # on all cores beside a GPU, too, which drawing does not use
        run_fits(_draw_in_worker, tasks, n_cores(), "figures", self.run.progress, "figure")
        for name in series:
            style.show(self.figures / f"{name}.png")

    def gallery(self) -> list[tuple[str, Path]]:
        """Caption and picture of every figure of the notebooks, in order.

        Raises
        ------
        JetfmError
            A figure that has not been made yet; names the notebook that makes it.
        """
        pictures = []
        for name, caption in CAPTIONS.items():
            if name == LEDGER:
                continue  # stands at the top of the notebook that shows the others
            path = self.figures / f"{name}.png"
            if not path.exists():
                raise JetfmError(path, "no such figure", f"notebook {name[3:5]} to have run")
            pictures.append((caption, path))
        return pictures


def _draw(
    draw: Callable[..., Figure], name: str, data: Mapping, folder: Path
) -> tuple[Figure, Path]:
    """A figure, and the path of its picture."""
    figure = draw(**data)
    return figure, style.save(figure, data, name, folder)


def _draw_in_worker(draw: Callable[..., Figure], name: str, data: Mapping, folder: Path) -> None:
    style.use_style()
    figure, _ = _draw(draw, name, data, folder)
    plt.close(figure)


def _make_in_worker(profile: Profile, keys: Sequence[str]) -> None:
    """Make the stages of these keys, without a word."""
    pipeline = Pipeline(profile, progress=False, say=silent)
    pipeline.stages()  # declares them
    for key in keys:
        pipeline.run.stages[key].artifact  # noqa: B018, made
