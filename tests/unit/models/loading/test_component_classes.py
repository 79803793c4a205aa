"""The class of a component is found under every name that diffusers finds it, and a missing package is named."""

from __future__ import annotations

import pytest

from models.errors import BadModel
from models.loading import component_classes
from models.loading.component_classes import component_class


def test_a_feature_extractor_of_older_checkpoints_is_todays_image_processor() -> None:
    found = component_class("feature_extractor", "transformers", "CLIPFeatureExtractor")

    assert found is component_class("feature_extractor", "transformers", "CLIPImageProcessor")


def test_a_fast_tokenizer_of_older_checkpoints_is_todays_tokenizer() -> None:
    assert component_class("tokenizer", "transformers", "T5TokenizerFast").__name__ == "T5Tokenizer"


@pytest.mark.parametrize(
    ("library", "cls"), [("transformers", "ViTFeatureExtractor"), ("diffusers", "FlaxUNet2DConditionModel")]
)
def test_a_class_that_the_libraries_no_longer_have_is_refused(library: str, cls: str) -> None:
    with pytest.raises(BadModel, match=f"names {library}.{cls}, which is no component class"):
        component_class("x", library, cls)


def test_a_stand_in_for_a_class_names_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    class DummyObject(type):  # the libraries' stand-ins are of a class of this name
        pass

    stand_in = DummyObject("LMSDiscreteScheduler", (), {"_backends": ["torch", "scipy"]})
    monkeypatch.setattr(diffusers, "LMSDiscreteScheduler", stand_in)
    monkeypatch.setattr(component_classes, "is_installed", lambda module: module != "scipy")

    with pytest.raises(
        BadModel, match=r"'scheduler' is a LMSDiscreteScheduler, which needs scipy, .*pip install scipy"
    ):
        component_class("scheduler", "diffusers", "LMSDiscreteScheduler")
