"""Generation: caches against plain forwards, one seed one sample, distributions, requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from jetfm.errors import JetfmError
from jetfm.generation.autoregressive import generate
from jetfm.generation.sampling import draw, uniforms
from jetfm.models.jet_model import JetModel
from jetfm.settings import BackboneSettings, PretrainingSettings, TokenHeadSettings
from jetfm.tokenizers.vqvae import VQVAE
from tests.toys import randomise, small_pretraining_settings, small_tokenizer_settings

K = 64


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


@pytest.fixture(scope="module")
def model(tokenizer) -> JetModel:
    torch.manual_seed(0)
    made = randomise(JetModel(small_pretraining_settings(), K, 3, tokenizer.hash)).eval()
    with torch.no_grad():
        made.ntp_head.unembedding.bias[K + 1] += 2  # jets of a dozen constituents
        made.ntp_head.unembedding.bias[0] += 5  # a start id that would be drawn if it could
    return made


REQUESTED = np.random.default_rng(0).integers(1, 41, 64)


def sample(model, tokenizer, requested=REQUESTED, **options):
    options = {"seed": 5, "max_constituents": 40, "progress": False} | options
    return generate(model, tokenizer, requested, **options)


def omnijet_settings() -> PretrainingSettings:
    """Preset of paper 1, smaller."""
    return PretrainingSettings.model_validate(
        {"preset": "omnijet", "backbone": {"dim": 32, "n_blocks": 2, "n_heads": 4}}
    )


def token_id_settings() -> PretrainingSettings:
    backbone = BackboneSettings(input="token-id", dim=32, n_blocks=2, n_heads=4, dropout=0.1)
    return PretrainingSettings(backbone=backbone, head=TokenHeadSettings(n_blocks=1))


def pair_settings() -> PretrainingSettings:
    settings = small_pretraining_settings()
    return settings.model_copy(
        update={"backbone": settings.backbone.model_copy(update={"pair_bias": True})}
    )


KINDS = {
    "continuous": small_pretraining_settings,
    "token-id": token_id_settings,
    "omnijet": omnijet_settings,
    "pair bias": pair_settings,
}


@pytest.mark.parametrize("kind", KINDS)
def test_cached_distribution_equals_the_plain_forward_at_every_step(tokenizer, kind):
    """Backbone, head and decoder together, while jets leave the batch."""
    torch.manual_seed(0)
    space = tokenizer.preprocessing
    model = randomise(JetModel(KINDS[kind](), K, preprocessing=space)).eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, K, (6, 40), generator=generator)
    n = torch.tensor([40, 40, 3, 40, 17, 40])
    lengths = torch.tensor([40, 12, 3, 40, 17, 30])
    caches, decoder_caches = model.new_caches(), tokenizer.new_caches()
    rows, newest = torch.arange(6), None
    for position in range(41):
        prefix = ids[rows, :position]
        mask = torch.ones(len(rows), position, dtype=torch.bool)
        x = prefix if model.backbone.reads_ids else tokenizer.decode(prefix)
        with torch.no_grad():
            expected = model(x, mask, n[rows])[:, -1]
            got = model.next_logits(newest, n[rows], caches)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        p, q = got.softmax(1), expected.softmax(1)
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-7)
        keep = (lengths[rows] > position).nonzero().squeeze(1)
        for cache in (*caches[0], *caches[1], *decoder_caches):
            cache.keep(keep)
        rows = rows[keep]
        if not len(rows):
            break
        newest = ids[rows, position]
        if not model.backbone.reads_ids:
            newest = tokenizer.decode_next(newest, decoder_caches)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_generates_what_its_plain_forward_would_draw(tokenizer, kind):
    """Jets of one seed, drawn again without caches, one jet at a time."""
    torch.manual_seed(0)
    space = tokenizer.preprocessing
    model = randomise(JetModel(KINDS[kind](), K, preprocessing=space)).eval()
    requested = np.array([3, 12, 7, 5, 20])
    jets = sample(model, tokenizer, requested, max_constituents=20)
    numbers = torch.from_numpy(uniforms(5, np.arange(5), 21))
    for jet, n in enumerate(requested):
        ids = torch.zeros(1, 0, dtype=torch.int64)
        for position in range(21):
            x = ids if model.backbone.reads_ids else tokenizer.decode(ids)
            with torch.no_grad():
                logits = model(x, torch.ones_like(ids, dtype=torch.bool), torch.tensor([n]))
            token = draw(logits[:, -1].clone(), numbers[jet, position : position + 1])
            if token == K + 1 or position == 20:
                break
            ids = torch.cat([ids, token[None] - 1], 1)
        rows = slice(jets.offsets[jet], jets.offsets[jet + 1])
        assert jets.ids[rows].tolist() == ids[0].tolist()
        np.testing.assert_allclose(jets.decoded[rows], tokenizer.decode(ids)[0], atol=2e-5)


def test_threads_make_no_difference(model, tokenizer):
    before = torch.get_num_threads()
    made = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            made.append(sample(model, tokenizer, batch_size=16))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(made[0].offsets, made[1].offsets)
    assert np.array_equal(made[0].ids, made[1].ids)


def test_an_error_of_a_worker_reaches_the_caller(model, tokenizer):
    with torch.no_grad():
        model.ntp_head.unembedding.bias[3] += torch.nan
    try:
        with pytest.raises(JetfmError, match="not numbers"):
            sample(model, tokenizer, batch_size=16)
    finally:
        with torch.no_grad():
            model.ntp_head.unembedding.bias[3] = 0


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_one_seed_gives_the_same_jets_whatever_the_batch_size(model, tokenizer, batch_size):
    expected = sample(model, tokenizer, REQUESTED[:24], batch_size=10)
    got = sample(model, tokenizer, REQUESTED[:24], batch_size=batch_size)
    assert np.array_equal(got.offsets, expected.offsets)
    assert np.array_equal(got.ids, expected.ids)
    assert np.array_equal(got.finished, expected.finished)
    np.testing.assert_allclose(got.decoded, expected.decoded, atol=2e-5)


def test_generated_jets_are_consistent(model, tokenizer):
    jets = sample(model, tokenizer)
    assert len(jets.offsets) == 65 and jets.offsets[-1] == len(jets.ids) == len(jets.decoded)
    assert jets.ids.min() >= 0 and jets.ids.max() < K
    assert (jets.n_constituents[~jets.finished] == 40).all()
    assert len(np.unique(jets.n_constituents)) > 5 and jets.finished.any()
    assert np.array_equal(jets.requested, REQUESTED)
    for begin, end in zip(jets.offsets[:5], jets.offsets[1:6], strict=True):
        ids = torch.as_tensor(jets.ids[begin:end])[None].long()
        decoded = tokenizer.decode(ids)[0].numpy() if end > begin else np.zeros((0, 3))
        np.testing.assert_allclose(jets.decoded[begin:end], decoded, atol=2e-5)
    other = sample(model, tokenizer, seed=6)
    assert not np.array_equal(other.offsets, jets.offsets)


def test_tokens_follow_the_models_probabilities(model, tokenizer):
    """First token of many jets against softmax without the start id, at two temperatures."""
    n = np.full(4000, 2)
    with torch.no_grad():
        logits = model.next_logits(None, torch.tensor([2]), model.new_caches())[0].double()
    for temperature in (1.0, 2.0):
        jets = sample(model, tokenizer, n, temperature=temperature, max_constituents=2,
                      batch_size=4000, seed=2)  # fmt: skip
        empty = jets.n_constituents == 0
        first = np.where(empty, K, jets.ids[np.minimum(jets.offsets[:-1], len(jets.ids) - 1)])
        expected = torch.softmax(logits[1:] / temperature, 0).numpy() * len(n)
        enough = expected > 5
        observed = np.bincount(first, minlength=K + 1)
        observed = np.append(observed[enough], observed[~enough].sum())
        expected = np.append(expected[enough], expected[~enough].sum())
        used = expected > 0
        assert chisquare(observed[used], expected[used]).pvalue > 1e-4


def test_jets_without_a_stop_are_cut_and_marked(model, tokenizer):
    with torch.no_grad():
        model.ntp_head.unembedding.bias[K + 1] -= 100
    jets = sample(model, tokenizer, np.array([3, 5]), max_constituents=6)
    with torch.no_grad():
        model.ntp_head.unembedding.bias[K + 1] += 200
    none = sample(model, tokenizer, np.array([3, 5]))
    with torch.no_grad():
        model.ntp_head.unembedding.bias[K + 1] -= 100
    assert jets.n_constituents.tolist() == [6, 6] and not jets.finished.any()
    assert none.n_constituents.tolist() == [0, 0] and none.finished.all()
    assert none.ids.shape == (0,) and none.decoded.shape == (0, 3)


def test_modes_are_given_back_and_dropout_is_off(tokenizer):
    torch.manual_seed(0)
    made = randomise(JetModel(small_pretraining_settings(dropout=0.5), K)).train()
    a, b = (sample(made, tokenizer, np.full(8, 5)) for _ in range(2))
    assert np.array_equal(a.ids, b.ids) and made.training and not tokenizer.training


@pytest.mark.parametrize(
    "options, message",
    [
        ({"requested": np.zeros(0, int)}, "at least one jet"),
        ({"requested": np.array([3, 0])}, "multiplicities from 0 to 3"),
        ({"requested": np.array([-2])}, "1 to 40"),
        ({"requested": np.array([41])}, "1 to 40"),
        ({"requested": np.array([3.5])}, "integers"),
        ({"requested": np.array([[3]])}, "at least one jet"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_requests_are_refused(model, tokenizer, options, message):
    with pytest.raises(JetfmError, match=message):
        sample(model, tokenizer, **options)


def test_a_model_without_next_token_head_is_refused(tokenizer):
    settings = small_pretraining_settings().model_copy(update={"objective": "mpm"})
    with pytest.raises(JetfmError, match="MPM without a next-token head"):
        sample(JetModel(settings, K), tokenizer)


def test_wrong_partners_are_refused(model, tokenizer):
    torch.manual_seed(1)
    other = VQVAE(small_tokenizer_settings())
    with pytest.raises(JetfmError, match="the model's own"):
        sample(model, other)
    with pytest.raises(JetfmError, match="the model's 64"):
        sample(model, VQVAE(small_tokenizer_settings(n_codes=32)))
    with pytest.raises(JetfmError, match="causal"):
        sample(model, VQVAE(small_tokenizer_settings(causal_decoder=False)))
    with pytest.raises(JetfmError, match="next-token head"):
        sample(nn.Linear(1, 1), tokenizer)
