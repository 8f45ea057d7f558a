"""Generate jets into a file, from the folders of a pre-trained model and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jetfm.data.store import MANIFEST, JetStore
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.generation.autoregressive import check_request, generate
from jetfm.generation.file_format import Written, check_suffix, write_generated
from jetfm.generation.sampling import Choice, draw_multiplicities
from jetfm.models.jet_model import JetModel
from jetfm.runtime.device import current_device
from jetfm.storage.files import make_folder, read_json
from jetfm.tokenizers.kinds import load_tokenizer


@dataclass(frozen=True)
class Request:
    """What is to be generated; checked before anything is loaded or trained.

    Parameters
    ----------
    out : file to write, ``.root`` or ``.parquet``
    n_jets, seed, batch_size : see `generate`
    n_constituents : multiplicity to ask for in every jet; None draws it from held-out jets
    choice : how tokens are drawn
    max_constituents : limit of both

    Raises
    ------
    JetfmError
        A file of another kind, no jets, a multiplicity beyond the limit.
    """

    out: Path
    n_jets: int
    seed: int
    batch_size: int = 512
    n_constituents: int | None = None
    choice: Choice = Choice()
    max_constituents: int = 128

    def __post_init__(self) -> None:
        check_suffix(self.out)
        if self.n_jets < 1:
            raise JetfmError("n_jets", str(self.n_jets), "at least one jet")
        if self.n_constituents is not None:
            check_request(self.multiplicities(), self.seed, self.max_constituents)

    def multiplicities(self, held_out: np.ndarray | None = None) -> np.ndarray:
        """(n_jets,) requested multiplicities: as given, else drawn from those of `held_out`."""
        if self.n_constituents is not None:
            return np.full(self.n_jets, self.n_constituents)
        if held_out is None:
            expected = "n_constituents, or held-out jets to draw it from"
            raise JetfmError("multiplicities", "neither a number nor jets", expected)
        return draw_multiplicities(held_out, self.n_jets, self.seed, self.max_constituents)


def generate_file(
    request: Request,
    model: str | Path,
    tokenizer: str | Path,
    held_out: np.ndarray | None = None,
    progress: bool = True,
) -> Written:
    """Generate jets and write them; see `generate` and `write_generated`.

    Parameters
    ----------
    model, tokenizer : folders
    held_out : (n,) multiplicities of jets that the model has not been trained on

    Returns
    -------
    jets in the file, and what was left out

    Raises
    ------
    JetfmError
        Missing, damaged or mismatched files, a model that cannot generate, or no permission to
        write, which is said before jets are made.
    """
    make_folder(request.out.parent)
    requested = request.multiplicities(held_out)
    model, tokenizer = JetModel.load(model), load_tokenizer(tokenizer)
    choice = request.choice
    jets = generate(
        model,
        tokenizer,
        requested,
        seed=request.seed,
        batch_size=request.batch_size,
        temperature=choice.temperature,
        top_k=choice.top_k,
        top_p=choice.top_p,
        max_constituents=request.max_constituents,
        device=current_device(),
        progress=progress,
    )
    info = {
        "model": model.hash,
        "tokenizer": tokenizer.hash,
        "seed": request.seed,
        "temperature": choice.temperature,
        "top_k": choice.top_k,
        "top_p": choice.top_p,
        "n_constituents": request.n_constituents or "drawn from held-out jets",
        "n_unfinished": int((~jets.finished).sum()),
    }
    return write_generated(request.out, jets, tokenizer.preprocessing, info)


def multiplicities_of(folder: str | Path) -> np.ndarray:
    """(n_jets,) constituents of the jets in a token store or a jets store."""
    manifest = Path(folder) / MANIFEST
    is_jets = manifest.exists() and read_json(manifest).get("kind") == JetStore.kind
    return (JetStore if is_jets else TokenStore)(folder).n_constituents
