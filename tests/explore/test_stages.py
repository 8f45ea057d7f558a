"""From a profile's stages to the displays: the study's own classifier, and every display drawn."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.data.labelled import LabelledJets
from jetfm.errors import JetfmError
from jetfm.explore import displays, stages
from jetfm.explore.removal import removal
from jetfm.judging.jet_sample import JetSample
from jetfm.pipeline import Pipeline
from jetfm.pipeline.stage import silent
from tests.explore.small_profile import small_profile


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("explore")
        patch.setenv("JETFM_WORK", str(folder / "work"))
        patch.setenv("JETFM_FIGURES", str(folder / "figures"))
        pipeline = Pipeline(small_profile(), progress=False, say=silent)
        for name in pipeline.profile.tokenizers:  # here: workers would take longer to start
            pipeline.tokenizers.trained(name).artifact  # noqa: B018, made
        yield pipeline


def test_the_classifier_is_that_of_the_study(pipeline):
    """Its scores of the test jets are those that the study wrote down."""
    study = pipeline.finetuning.study()["ten-classes"]
    classifier, store = stages.classifier(pipeline), stages.jets_to_classify(pipeline)
    (path,) = study.folder.glob(f"main-finetuned_{study.sizes[-1]}_0.npy")
    labelled = pipeline.finetuning.runner("ten-classes", "main", "finetuned").jets.test
    assert isinstance(labelled, LabelledJets) and tuple(classifier.classes) == labelled.class_names
    expected = np.exp(np.load(path))
    found = classifier.probabilities_of(store)[labelled.indices]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    curve = removal(classifier, store, labelled.indices[0])
    np.testing.assert_allclose(curve.probabilities[-1], expected[0], atol=1e-5)
    done = [key for key, stage in pipeline.run.stages.items() if stage.find()]
    assert "classifier ten-classes" in done


def test_every_display_shows_the_stages(pipeline, undrawn):
    tokenizers = stages.tokenizers(pipeline)
    assert list(tokenizers) == ["main", "conditional-512"]
    store = pipeline.jets.store("test")
    generators = stages.generated(pipeline)
    for one in (
        displays.tokens(store, tokenizers),
        displays.generated(generators),
        displays.removal(store, stages.classifier(pipeline)),
    ):
        before, jet = one.picture.value, one.controls["jet"]
        jet.value = 1
        assert jet.max > 0 and one.picture.value != before and not one.message.value


def test_generators_that_are_not_there_are_not_made(pipeline):
    found = stages.generated(pipeline)
    assert len(found) == 1 < len(pipeline.generation.generators)
    (one,) = found.values()
    assert isinstance(one.sample, JetSample)
    assert len(one.sample) == pipeline.profile.generation.n_jets
    assert len(one.real) == len(pipeline.jets.store("train"))


def test_a_task_that_is_not_there_is_named(pipeline):
    with pytest.raises(JetfmError, match="'of-mine'; expected one of ten-classes"):
        stages.classifier(pipeline, "of-mine")
