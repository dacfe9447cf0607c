import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from sfda_jax.errors import ConfigError
from sfda_jax.models import tiny
from sfda_jax.ops.color import normalize
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.types import SegOutput


class Strided(nn.Module):
    """One convolution; `extra` outputs more than the stride divides, as DeepLab has."""

    num_classes: int = 4
    stride: int = 8
    extra: int = 0

    @nn.compact
    def __call__(self, images, *, deterministic, use_running_average):
        assert deterministic
        pad = ((0, self.extra * self.stride),) * 2
        size, strides = (self.stride,) * 2, (self.stride,) * 2
        logits = 20 * nn.Conv(self.num_classes, size, strides, padding=pad)(images)
        return SegOutput(logits=logits, features=logits)


def network(model, size=(24, 32)):
    blank = jnp.zeros((1, *size, 3), jnp.float32)
    return model.init(
        jax.random.key(0), blank, deterministic=True, use_running_average=True
    )


def images(*size, batch=2):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8))


def logits_of(model, variables, x):
    return model.apply(
        variables, x, deterministic=True, use_running_average=True
    ).logits


@pytest.mark.parametrize("label_size", [(), (30, 41)])
@pytest.mark.parametrize("flip", [False, True])
def test_logits_are_enlarged_and_probabilities_averaged(label_size, flip):
    model, x = Strided(), images(24, 32)
    variables = network(model)
    inference = Inference(flip=flip, label_size=label_size)
    found = jax.jit(inference.make_scores(model))(variables, x)
    size = label_size or (24, 32)
    assert found.shape == (2, *size, 4) and found.dtype == np.float32

    def probs(x):
        logits = logits_of(model, variables, x)
        return jax.nn.softmax(resize_bilinear(logits, size, align_corners=True))

    expected = probs(normalize(x))
    if flip:
        mirrored = probs(normalize(x)[:, :, ::-1])[:, :, ::-1]
        expected = (expected + mirrored) / 2
        assert np.abs(mirrored - expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("enlarge", ["logits", "mean_logits"])
@pytest.mark.parametrize("flip", [False, True])
def test_views_of_several_sizes(enlarge, flip):
    model, x = Strided(), images(24, 32)
    variables = network(model)
    sizes = ((16, 40), (24, 32))
    inference = Inference(view_sizes=sizes, flip=flip, enlarge=enlarge)
    found = jax.jit(inference.make_scores(model))(variables, x)

    def enlarged(view):
        logits = logits_of(model, variables, view)
        return resize_bilinear(logits, (24, 32), align_corners=True)

    x = normalize(x)
    seen = [resize_bilinear(x, size, align_corners=True) for size in sizes]
    maps = [enlarged(view) for view in seen]
    if flip:
        maps += [enlarged(view[:, :, ::-1])[:, :, ::-1] for view in seen]
    expected = {
        "logits": sum(map(jax.nn.softmax, maps)) / len(maps),
        "mean_logits": jax.nn.softmax(sum(maps) / len(maps)),
    }
    np.testing.assert_allclose(found, expected.pop(enlarge), rtol=0, atol=1e-5)
    (other,) = expected.values()
    assert np.abs(found - other).max() > 0.01


def pillow_maps(maps, stride, size, label_size):
    """The two published resizings, one map after the other."""
    rule = Image.Resampling.BILINEAR
    if all(a < b for a, b in zip(label_size, size, strict=True)):
        rule = Image.Resampling.LANCZOS
    if all(a > b for a, b in zip(label_size, size, strict=True)):
        rule = Image.Resampling.BICUBIC
    result = np.zeros((*label_size, maps.shape[-1]), np.float32)
    for c in range(maps.shape[-1]):
        image = Image.fromarray(maps[:, :, c])
        large = tuple(stride * side for side in image.size)
        image = image.resize(large, Image.Resampling.BICUBIC)
        image = image.crop((0, 0, size[1], size[0]))
        if label_size[0] != size[0]:
            image = image.resize(label_size[::-1], rule)
        result[:, :, c] = np.asarray(image)
    return result


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("label_size", [(), (31, 60), (15, 20), (30, 20)])
def test_class_maps_are_padded_flipped_and_enlarged(stride, extra, label_size):
    size = (21, 29)
    model, x = Strided(stride=stride, extra=extra), images(*size)
    variables = network(model)
    inference = Inference(enlarge="class_maps", flip=True, label_size=label_size)
    found = jax.jit(inference.make_scores(model))(variables, x)
    padded = jnp.pad(normalize(x), ((0, 0), (0, 3), (0, 3), (0, 0)))
    plain = jax.nn.softmax(logits_of(model, variables, padded))
    mirrored = jax.nn.softmax(logits_of(model, variables, padded[:, :, ::-1]))
    maps = np.asarray((plain + mirrored[:, :, ::-1]) / 2)
    for index in range(2):
        expected = pillow_maps(maps[index], stride, size, label_size or size)
        np.testing.assert_allclose(found[index], expected, rtol=0, atol=1e-5)
    sums = found.sum(-1)
    np.testing.assert_allclose(sums, np.ones_like(sums), atol=1e-4)
    assert found.min() < 0 or found.max() > 1  # neither clipped nor renormalised


@pytest.mark.parametrize("enlarge", ["logits", "class_maps"])
def test_a_prior_multiplies_last(enlarge):
    model, x = Strided(), images(24, 32)
    variables = network(model)
    inference = Inference(enlarge=enlarge, label_size=(48, 64))
    prior = np.random.default_rng(1).random((4, 48, 64))
    plain = inference.make_scores(model)(variables, x)
    weighted = inference.make_scores(model, prior=prior)(variables, x)
    expected = np.asarray(plain) * prior.astype(np.float32).transpose(1, 2, 0)
    np.testing.assert_allclose(weighted, expected, rtol=1e-6, atol=1e-30)


def test_batch_statistics_are_used_and_not_kept():
    model, x = tiny.Model(num_classes=3, width=8), images(16, 24)
    variables = network(model)
    scores = {
        statistics: Inference().make_scores(model, statistics=statistics)(variables, x)
        for statistics in ("running", "batch")
    }
    assert np.abs(scores["running"] - scores["batch"]).max() > 1e-3
    again = Inference().make_scores(model, statistics="running")(variables, x)
    np.testing.assert_array_equal(scores["running"], again)


def test_the_host_side_resizes():
    record = {"image": np.asarray(images(31, 50)[0]), "id": "a"}
    transform = Inference(size=(41,), resample="rule").transform(gamma=0.8)
    assert transform(record, np.random.default_rng(0))["images"].shape == (25, 41, 3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"enlarge": "class_map"}, "class_maps"),
        ({"resample": "cubic"}, "bicubic"),
        ({"label_size": (512,)}, "label_size"),
        ({"batch_size": 0}, "batches of 0"),
        ({"view_sizes": ((8, 8),), "enlarge": "class_maps"}, "view_sizes"),
        ({"size": (8, 8), "scale": 0.9}, "scale=0.9"),
    ],
)
def test_wrong_settings_are_named(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        Inference(**settings)
