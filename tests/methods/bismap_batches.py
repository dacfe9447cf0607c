"""Batches, stores and settings that the tests of BiSMAP's training methods share."""

import jax
import numpy as np

from sfda_jax.data.retried_crop import RetriedCrop
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.types import IGNORE
from tests.methods.stand_ins import Store

SIZE = (16, 24)
CROP = RetriedCrop(full_size=(32, 48), base_width=48, crop_size=SIZE)
OPTIMIZER = make_optimizer(
    OptimizerSettings(learning_rate=0.01, schedule="constant", weight_decay=0.0)
)


def make_batch(size=4, seed=0):
    """A batch of both domains; each image has another share of labelled pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (2, size, *SIZE), dtype=np.uint8)
    shares = np.linspace(0.4, 1, size)[:, None, None]
    labels[rng.random(labels.shape) > shares] = IGNORE
    images = rng.integers(0, 256, (2, size, *SIZE, 3), dtype=np.uint8)
    occluded = np.zeros((size, *SIZE), bool)
    for place in range(size):
        occluded[place, 3 : 6 + place, 5:9] = True
    return {
        "source": {
            "images": images[0],
            "labels": labels[0],
            "weights": rng.random((size, *SIZE), dtype=np.float32),
        },
        "target": {
            "images": images[1],
            "labels": labels[1],
            "student_images": rng.normal(size=(size, *SIZE, 3)).astype(np.float32),
            "occluded": occluded,
        },
    }


def make_store(records, **maps):
    """A finished store that holds the same map for every record, by name."""
    store = Store()
    for record in records:
        for name, values in maps.items():
            store.write(name, record["id"], values)
    store.finish({})
    return store


def first_terms(method, state, batch):
    """The loss's terms in a step, without its gradient: compiles quickly."""
    key = jax.random.key(0)

    @jax.jit
    def terms(state, batch):
        state, targets = method.annotate(state, batch, key)
        return method.loss(state.student.params, state, batch, targets, key)[1].metrics

    return jax.device_get(terms(state, batch))
