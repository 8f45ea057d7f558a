"""An encoder for analyses: the tokens of ``jetfm tokenize``, and the same from an ONNX file."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from jetfm.cli import app
from jetfm.tokenizers import load_tokenizer
from jetfm.tokenizers.own_jets import tokenize_files
from jetfm.tokenizers.physical_encoder import PhysicalEncoder
from tests.data.jetclass_files import dense_arrays, jetclass_file, random_jets
from tests.tokenizers.test_interface import KINDS, made

COUNTS = (3, 40, 1, 2, 131, 17, 25, 60, 9, 33)
ROUNDING = 1e-5  # of a latent in float32, after a network


@pytest.fixture(scope="module")
def file_and_arrays(tmp_path_factory):
    """A JetClass file, and what an analysis has of its constituents, zero-padded."""
    path = jetclass_file(tmp_path_factory.mktemp("jets") / "jets.root", COUNTS)
    return path, dense_arrays(random_jets(COUNTS))


def inputs(encoder, arrays, dtype=np.float64) -> dict[str, np.ndarray]:
    return {name: arrays[name].astype(dtype) for name in encoder.input.names}


def assert_equal_but_for_ties(encoder, some, found, expected):
    """Where ids differ, rounding of the latents decides between the two."""
    x, mask, _ = encoder.input(*map(torch.as_tensor, some.values()))
    assert np.array_equal(found >= 0, mask.numpy()) and np.array_equal(expected >= 0, mask.numpy())
    differ = found != expected
    if differ.any():
        latents = encoder.tokenizer._latents(x, mask)[torch.as_tensor(differ)]
        torch.manual_seed(0)
        near = latents + ROUNDING * torch.randn(200, *latents.shape)
        possible = encoder.tokenizer._nearest(near.flatten(0, 1)).view(200, -1).numpy()
        assert (possible == found[differ]).any(0).all()
    assert differ.sum() <= 0.02 * mask.sum()
    return int(differ.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_tokenised_files(file_and_arrays, tmp_path, kind):
    path, arrays = file_and_arrays
    made(kind).save(tmp_path / "tokenizer")
    encoder = PhysicalEncoder(load_tokenizer(tmp_path / "tokenizer"))
    some = inputs(encoder, arrays)
    found = encoder(*map(torch.as_tensor, some.values())).numpy()
    tokens = tokenize_files(tmp_path / "tokenizer", path, tmp_path / "tokens", progress=False)
    expected = np.full_like(found, -1)
    for jet, (start, end) in enumerate(zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)):
        expected[jet, tokens.positions[start:end]] = tokens.ids[start:end]
    assert_equal_but_for_ties(encoder, some, found, expected)
    n_real = (found >= 0).sum(1)
    assert n_real[4] <= 128 and len(np.unique(found)) > 8


# one kind takes seconds to write
LONG = [pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS if kind != "conditional"]


@pytest.mark.parametrize("kind", ["conditional", *LONG])
def test_onnx_gives_the_same_ids(file_and_arrays, tmp_path, kind, record_property):
    """Written by the command, run by ONNX Runtime."""
    made(kind).save(tmp_path / "tokenizer")
    encoder = PhysicalEncoder(load_tokenizer(tmp_path / "tokenizer"))
    words = ["export", "--tokenizer", tmp_path / "tokenizer", "--onnx", tmp_path / "t.onnx"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    n_codes = encoder.tokenizer.n_codes
    assert "takes pt, eta, phi" in done.output and f"ids below {n_codes}, -1" in done.output
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        tmp_path / "t.onnx", options, providers=["CPUExecutionProvider"]
    )
    ties = 0
    for n_jets, length in ((1, 1), (10, 2), (3, 17), (10, 131)):
        some = inputs(encoder, file_and_arrays[1], np.float32)
        some = {name: values[:n_jets, :length].copy() for name, values in some.items()}
        some["pt"][n_jets // 2] = 0 if n_jets > 1 else some["pt"][0]  # a jet without constituents
        found = session.run(None, some)[0]
        with torch.no_grad():
            expected = encoder(*map(torch.as_tensor, some.values())).numpy()
        assert found.shape == (n_jets, length) and found.dtype == np.int64
        ties += assert_equal_but_for_ties(encoder, some, found, expected)
    assert len(np.unique(found)) > 8
    record_property("ties", ties)
