"""A network and a method that train in no time, and move what is predicted."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from sfda_jax.data.transforms import Evaluate
from sfda_jax.methods.base import MethodBase
from sfda_jax.models.forward import forward
from sfda_jax.types import LossAux, SegOutput, StreamSpec, Targets

SIZE = (16, 32)


class Model(nn.Module):
    """One convolution."""

    num_classes: int
    axis_name: str | None = None

    align_corners: ClassVar[bool] = True

    @nn.compact
    def __call__(self, images, *, deterministic=True, use_running_average=True):
        logits = nn.Conv(self.num_classes, (4, 4), strides=4, name="head")(images)
        return SegOutput(logits=logits, features=logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """Every target image is to be stripes of all classes."""

    batch_size: int = 4

    def begin_round(self, ctx, state):
        transform = Evaluate(size=SIZE)
        stream = StreamSpec(
            domain="target", batch_size=self.batch_size, transform=transform
        )
        return state, {"target": stream}

    def annotate(self, state, batch, key):
        classes = jnp.linspace(0, self.task.classes.num_classes - 1, SIZE[1] // 4)
        labels = jnp.round(classes).astype(jnp.int32)
        return state, Targets(labels=labels, weights=jnp.ones(labels.shape))

    def loss(self, params, state, batch, targets, key):
        network = state.student.replace(params=params)
        images = batch["target"]["images"]
        output, stats = forward(self.model, network, images, statistics="batch")
        logs = jax.nn.log_softmax(output.logits)
        wanted = jax.nn.one_hot(targets.labels, logs.shape[-1])[None, None]
        loss = -(logs * wanted).sum(-1).mean()
        return loss, LossAux(metrics={"loss": loss}, batch_stats=stats)


def get_config():
    """Two short rounds of it, a checkpoint and a log line after every step."""
    scenes = {"dataset": "scenes", "variant": "96x192"}
    return ConfigDict(
        {
            "name": "toy",
            "task": {
                "name": "toy",
                "classes": "cityscapes19",
                "target": {**scenes, "train": "real_train", "eval": "real_test"},
            },
            "model": {"name": "tests.train.toy_method:Model"},
            "data": {"generated": True, "generated_size": SIZE},
            "parallel": {"devices": 1},
            "evaluation": {"size": SIZE, "batch_size": 32, "panels": 1},
            "checkpoint": {"every": 1},
            "log": {"every": 1},
            "pipeline": ("adapt",),
            "stages": {
                "adapt": {
                    "method": "tests.train.toy_method:Method",
                    "optimizer": {"learning_rate": 0.05, "schedule": "constant"},
                    "rounds": ({"num_steps": 4}, {"num_steps": 1}),
                },
            },
        }
    )
