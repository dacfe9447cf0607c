"""A network of one strided convolution, enough to be evaluated."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.types import SegOutput


class TinyNetwork(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, deterministic, use_running_average):
        assert deterministic and use_running_average
        logits = nn.Conv(self.num_classes, (3, 3), strides=(2, 2), padding=1)(images)
        return SegOutput(logits=logits, features=logits)


def tiny(num_classes, seed=0):
    """(network, variables)."""
    model = TinyNetwork(num_classes)
    variables = model.init(
        jax.random.key(seed),
        jnp.zeros((1, 8, 8, 3), jnp.float32),
        deterministic=True,
        use_running_average=True,
    )
    return model, variables


def identity_transform(record, rng):
    return {"images": record["image"], "labels": record["label"]}


def examples(sizes, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.array([*range(num_classes), 255], np.uint8)
    return [
        {
            "id": f"city/{index:03d}",
            "image": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            "label": rng.choice(ids, size),
        }
        for index, size in enumerate(sizes)
    ]
