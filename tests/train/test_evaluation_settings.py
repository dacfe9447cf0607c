import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.evaluation.predictor import Views
from sfda_jax.evaluation.windows import Windows
from sfda_jax.models import segformer, tiny
from sfda_jax.train.recipe import EvaluationSettings

MODEL = tiny.Model(num_classes=3)


def test_defaults_are_the_plain_image_and_the_official_rule():
    settings = EvaluationSettings(size=(8, 16))
    assert settings.views(MODEL) == Views()
    assert settings.absent_classes == "skip"
    assert settings.transform().resample == "bicubic"


def test_settings_reach_the_views():
    settings = EvaluationSettings(
        size=(), scales=(0.5, 1.0), flip=True, average="view_probs", enlarge_twice=True
    )
    assert settings.views(MODEL) == Views(
        scales=(0.5, 1.0),
        flip=True,
        average="view_probs",
        windows=Windows(align_corners=True),
    )


def test_sizes_of_views_reach_them():
    sizes = ((4, 8), (8, 16))
    settings = EvaluationSettings(size=(8, 16), view_sizes=sizes)
    assert settings.views(MODEL).sizes((8, 16)) == list(sizes)


def test_logits_are_enlarged_as_the_network_has_it():
    centres = segformer.Model(num_classes=3, variant="b0")
    assert not EvaluationSettings(size=(8, 16)).views(centres).align_corners


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"average": "prob"}, "evaluation.average"),
        ({"absent_classes": "nan"}, "evaluation.absent_classes"),
        ({"resample": "area"}, "evaluation.resample"),
        ({"size": (1, 2, 3)}, "means nothing"),
    ],
)
def test_wrong_settings_are_named(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        EvaluationSettings(**{"size": (8, 16)} | settings)
