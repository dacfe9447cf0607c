"""A round context and a store in memory, a task, and small networks."""

import dataclasses
import functools
import pathlib
import tempfile
from typing import ClassVar

import jax
import numpy as np
from flax import linen as nn

from sfda_jax.data.statistics import count_class_maps, count_class_pixels
from sfda_jax.models.layers import BatchNorm, Conv
from sfda_jax.tasks import ClassSpace, Domain, Task
from sfda_jax.train.states import start_state
from sfda_jax.types import ModelState, SegOutput


def make_task(num_classes=5):
    space = ClassSpace(
        name="toy",
        names=tuple("abcdefgh"[:num_classes]),
        palette=np.zeros((num_classes, 3), np.uint8),
        subsets={"mIoU": tuple(range(num_classes))},
    )
    domain = Domain(dataset="toy", train="train", eval="val")
    return Task(
        name="toy", source=domain, target=domain, classes=space, headline="mIoU"
    )


class Backbone(nn.Module):
    """One convolution of stride 4 and BatchNorm: compiles in no time."""

    norm: BatchNorm

    @nn.compact
    def __call__(self, images, use_running_average):
        x = Conv(8, 4, stride=4, name="conv")(images)
        x = self.norm.copy(name="bn")(x, use_running_average=use_running_average)
        return nn.relu(x)


class Model(nn.Module):
    num_classes: int = 5
    frozen_bn: bool = False
    bn_momentum: float = 0.1
    axis_name: str | None = None

    align_corners: ClassVar[bool] = True
    stride: ClassVar[int] = 4

    def setup(self):
        norm = BatchNorm(
            frozen=self.frozen_bn,
            momentum=self.bn_momentum,
            axis_name=self.axis_name,
            parent=None,
        )
        self.backbone = Backbone(norm)
        self.head = Conv(self.num_classes, 1, use_bias=True)

    def __call__(self, images, *, deterministic=True, use_running_average=True):
        features = self.backbone(images, use_running_average)
        return SegOutput(logits=self.classify(features), features=features)

    def classify(self, features):
        return self.head(features)


def make_model(**settings):
    return Model(**settings)


@functools.cache
def make_network(model, seed=0):
    variables = jax.jit(model.init)(
        jax.random.key(seed), np.zeros((1, 16, 16, 3), np.float32)
    )
    return ModelState(variables["params"], variables["batch_stats"])


def make_state(method, optimizer, seed=0):
    network = make_network(method.model.clone(axis_name=None), seed)
    return start_state(method, optimizer, network, jax.random.key(1))


def make_images(count, size=(32, 48), seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            "id": f"image_{i}",
            "index": i,
        }
        for i in range(count)
    ]


class Store:
    def __init__(self):
        self.maps, self.meta, self.saved = {}, None, None

    def complete(self):
        return self.meta is not None

    def write(self, name, example_id, labels):
        self.maps[name, example_id] = labels

    def read(self, name, example_id):
        return self.maps[name, example_id]

    write_soft, read_soft = write, read

    def save_progress(self, facts, arrays):
        self.saved = dict(facts), dict(arrays)

    def progress(self):
        return self.saved

    def shared(self):
        return self

    def parts(self):
        return [self.saved[0]]

    def finish(self, meta):
        self.meta = meta


@dataclasses.dataclass
class Context:
    records: list
    task: Task
    round: int = 0
    num_steps: int = 3
    rng: np.random.Generator = dataclasses.field(
        default_factory=lambda: np.random.default_rng(0)
    )
    store: Store = dataclasses.field(default_factory=Store)
    previous: Store | None = None
    labeller: ModelState | None = None
    scratch: pathlib.Path = dataclasses.field(
        default_factory=lambda: pathlib.Path(tempfile.mkdtemp())
    )
    trial: bool = False
    forwards: int = 0
    stage_stores: dict = dataclasses.field(default_factory=dict)

    def stage_store(self, origin):
        return self.stage_stores[origin]

    def images(self, domain):
        return self.records

    def class_pixels(self, domain):
        return count_class_pixels(self.records, self.task.classes.num_classes)

    def class_maps(self, domain, size):
        return count_class_maps(self.records, self.task.classes.num_classes, size)

    def total(self, counts):
        return counts

    def forward(
        self,
        fn,
        variables,
        *,
        domain="target",
        transform,
        batch_size,
        order=None,
        start=0,
        shared=False,
    ):
        self.forwards += 1
        order = np.arange(len(self.records)) if order is None else order
        order = order[start * batch_size :]
        compiled = jax.jit(fn)
        for start in range(0, len(order), batch_size):
            rows = [self.records[i] for i in order[start : start + batch_size]]
            images = np.stack([transform(row, self.rng)["images"] for row in rows])
            missing = batch_size - len(rows)
            padded = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
            out = jax.device_get(compiled(variables, padded))
            ids = [row["id"] for row in rows]
            yield ids, jax.tree.map(lambda x, ids=ids: x[: len(ids)], out)
