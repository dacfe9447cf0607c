"""A round context and a store in memory, a task, small networks, and runs of them."""

import dataclasses
import functools
import pathlib
import tempfile
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.data.statistics import count_class_maps, count_class_pixels
from sfda_jax.models.layers import BatchNorm, Conv
from sfda_jax.tasks import ClassSpace, Domain, Task
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.types import IGNORE, ModelState, SegOutput

ONLINE = {
    "full_size": (32, 48),
    "crop_size": (16, 24),
    "test_size": (32, 48),
    "candidate_size": (32, 64),
    "mix_classes": (1, 2),
    "companions": (),
}
"""Settings of online teachers that fit these images and networks."""


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


def make_online_batch(rng, size=4):
    """A batch as online teachers read it, objects pasted into its first half."""
    mixed = np.full((size, 16, 24), IGNORE, np.uint8)
    mixed[: size // 2, 2:6, 3:9] = 2
    return {
        "images": rng.integers(0, 256, (size, 16, 24, 3), dtype=np.uint8),
        "full_images": rng.integers(0, 256, (size, 32, 48, 3), dtype=np.uint8),
        "rescale_size": np.array([[30, 45], [40, 60]] * (size // 2), np.int32),
        "crop_origin": np.array([[3, 5], [11, 30]] * (size // 2), np.int32),
        "flip": np.array([True, False] * (size // 2)),
        "mix_labels": mixed,
        "index": np.arange(size, dtype=np.int32),
    }


class BothWays(NamedTuple):
    """What one device and four under `pmap` make of the same batches.

    Attributes:
        state: of one device, after all batches.
        shards: the four devices' states, stacked.
        metrics: one device's and the four's, of each step.
    """

    state: Any
    shards: Any
    metrics: list


def run_both_ways(method, optimizer, batches, *, state=None, step=None):
    """Steps on one device and on four, from the same state.

    `step` is the one device's, compiled before.
    """
    state = make_state(method, optimizer) if state is None else state
    local = dataclasses.replace(
        method, model=method.model.clone(axis_name="data"), axis_name="data"
    )
    one = jax.jit(make_train_step(method, optimizer)) if step is None else step
    many = jax.pmap(
        make_train_step(local, optimizer),
        axis_name="data",
        in_axes=(0, 0, None),
        devices=jax.devices()[:4],
    )
    key, rows = jax.random.key(3), []
    stacked = jax.tree.map(lambda x: jnp.stack([x] * 4), state)
    for batch in batches:
        state, metrics = one(state, batch, key)
        shards = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)
        stacked, shard_metrics = many(stacked, shards, key)
        rows.append((metrics, shard_metrics))
    return BothWays(state, stacked, rows)


def assert_shard_close(tree, shards, *, device=1, **tolerance):
    """A tree of one device is that of another device under `pmap`."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[device], **tolerance), tree, shards
    )


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
    sources: list = dataclasses.field(default_factory=list)
    networks: dict = dataclasses.field(default_factory=dict)
    mixtures_of: dict = dataclasses.field(default_factory=dict)
    kept: Any = None

    def stage_store(self, origin):
        return self.stage_stores[origin]

    def images(self, domain):
        return self.records if domain == "target" else self.sources or self.records

    def network(self, model, path):
        return self.networks[path]

    def keep_mixtures(self, mixtures):
        self.kept = mixtures

    def mixtures(self, origin=""):
        return self.mixtures_of[origin] if origin else self.kept

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
        inputs=("images",),
        batch_size,
        order=None,
        start=0,
        shared=False,
    ):
        self.forwards += 1
        records = self.images(domain)
        order = np.arange(len(records)) if order is None else order
        order = order[start * batch_size :]
        compiled = jax.jit(fn)
        for start in range(0, len(order), batch_size):
            rows = [records[i] for i in order[start : start + batch_size]]
            made = [transform(row, self.rng) for row in rows]
            made += made[-1:] * (batch_size - len(rows))
            given = {name: np.stack([one[name] for one in made]) for name in inputs}
            given = given if len(given) > 1 else given[inputs[0]]
            out = jax.device_get(compiled(variables, given))
            ids = [row["id"] for row in rows]
            yield ids, jax.tree.map(lambda x, ids=ids: x[: len(ids)], out)
