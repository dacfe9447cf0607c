"""A whole round's labels with class-balanced thresholds, killed and gone on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.pseudo_labels import label_pass
from sfda_jax.pseudo_labels.class_balanced import Selector, assign_hard
from tests.pseudo_labels.test_class_balanced import by_sorting
from tests.pseudo_labels.test_label_pass import (
    INFERENCE,
    MODEL,
    NETWORK,
    Killed,
    context,
    label,
)


def predictions(ctx):
    """In the batches of the pass: other ones may differ in the last bit."""
    images = np.stack([record["image"] for record in ctx.images("target")])
    size = INFERENCE.batch_size
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % size, 0)])
    scores = jax.jit(INFERENCE.make_scores(MODEL, statistics="running"))
    batches = padded.reshape(-1, size, *images.shape[1:])
    found = [np.asarray(scores(NETWORK.variables, batch)) for batch in batches]
    return np.concatenate(found)[: len(images)]


@pytest.mark.parametrize("accumulate", ["exact_spool", "exact_radix", "hist"])
@pytest.mark.parametrize("left", [3, 6])
def test_killed_in_any_pass(tmp_path, monkeypatch, accumulate, left):
    monkeypatch.setattr(label_pass, "SAVE_EVERY", 2)
    selector = Selector(portion=0.3, accumulate=accumulate)
    ctx = context(tmp_path / "whole")
    whole = label(ctx, selector)
    probs = predictions(ctx)
    expected = by_sorting(probs, portion=0.3, stride=4, extra_zero=True, policy="class")
    if accumulate != "hist":
        np.testing.assert_array_equal(np.float32(whole["thresholds"]), expected)
    thresholds = jnp.asarray(np.float32(whole["thresholds"]))
    labels = np.asarray(assign_hard(jnp.asarray(probs), thresholds))
    for index, name in enumerate(whole["ids"]):
        np.testing.assert_array_equal(ctx.store.read("labels", name), labels[index])
    with pytest.raises(Killed):
        label(context(tmp_path / "cut", left=left), selector)
    again = context(tmp_path / "cut")
    assert label(again, selector) == whole
    for index, name in enumerate(whole["ids"]):
        np.testing.assert_array_equal(again.store.read("labels", name), labels[index])


def test_soft_labels_are_stored(tmp_path):
    ctx = context(tmp_path)
    meta = label(ctx, Selector(soft_alpha=0.25, extra_zero=False, sizes="pixels"))
    pixels = sum(meta["pixels"])
    assert meta["sizes"] == meta["pixels"]
    soft = [ctx.store.read_soft("soft", name) for name in meta["ids"]]
    assert sum(weights[..., 0].size for weights in soft) == pixels
    for name, weights in zip(meta["ids"], soft, strict=True):
        labels = ctx.store.read("labels", name)
        np.testing.assert_allclose(weights.sum(-1, dtype=np.float32), 1, atol=2e-3)
        kept = labels < 255
        best = np.take_along_axis(weights, np.where(kept, labels, 0)[..., None], -1)
        assert (best[..., 0] >= weights.max(-1) - 1e-3)[kept].all()
