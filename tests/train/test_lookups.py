"""A step that looks something up equals one that has it from the start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sfda_jax.methods.base import MethodBase
from sfda_jax.models.forward import forward
from sfda_jax.ops.collectives import gather_batch, psum
from sfda_jax.train.lookups import compile_round, split_streams
from sfda_jax.train.parallel import make_parallel
from sfda_jax.types import Lookup, LossAux, ModelState, StreamSpec, Targets
from tests.methods.stand_ins import make_model, make_state, make_task

SIZE, SEED = 4, (3, 1, 0)
OPTIMIZER = optax.sgd(0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """Fits the mean logit of each image to a number that the host gives for it."""

    def annotate(self, state, batch, key):
        images = batch["target"]["images"]
        means = gather_batch(images.astype(jnp.float32).mean((1, 2, 3)), self.axis_name)
        labels = jnp.zeros(images.shape[:3], jnp.int32)
        targets = Targets(
            labels=labels,
            weights=jnp.ones(labels.shape, jnp.float32),
            queries={"numbers": {"means": means}},
        )
        return state, targets

    def loss(self, params, state, batch, targets, key):
        student = ModelState(params, state.student.batch_stats)
        output, stats = forward(
            self.model, student, batch["target"]["images"], statistics="running"
        )
        wanted = batch["numbers"]["number"]
        count = psum(jnp.float32(len(wanted)), self.axis_name)
        loss = jnp.square(output.logits.mean((1, 2, 3)) - wanted).sum() / count
        return loss, LossAux(metrics={}, batch_stats=stats)


def answer(queries, rng, rows):
    """One number per image, drawn for all of them."""
    drawn = rng.uniform(size=len(queries["means"]))
    numbers = queries["means"] / 255 + drawn
    return {"number": numbers.astype(np.float32)[rows]}


def run(mode, devices, steps=3):
    parallel = make_parallel(mode, devices)
    method = Method(model=make_model(), task=make_task())
    step = compile_round(
        parallel,
        method,
        OPTIMIZER,
        lookups={"numbers": Lookup(answer=answer)},
        seed=SEED,
    )
    # Copied: the step takes its state's buffers for its own.
    fresh = jax.tree.map(jnp.copy, make_state(method, OPTIMIZER))
    state = parallel.put_state(fresh)
    losses = []
    for number in range(steps):
        images = np.random.default_rng(number).integers(
            0, 256, (SIZE, 16, 16, 3), dtype=np.uint8
        )
        batch = {"target": parallel.put_batch({"images": images})}
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(parallel.get_metrics(metrics)["loss"]))
    return losses, jax.device_get(parallel.get_state(state))


def expected_loss(number):
    """Of step `number`, if the network were the first one."""
    method = Method(model=make_model(), task=make_task())
    images = np.random.default_rng(number).integers(
        0, 256, (SIZE, 16, 16, 3), dtype=np.uint8
    )
    means = images.astype(np.float32).mean((1, 2, 3))
    rng = np.random.default_rng((*SEED, 0, number))
    wanted = answer({"means": means}, rng, slice(None))["number"]
    state = make_state(method, OPTIMIZER)
    images = jnp.asarray(images)
    output, _ = forward(method.model, state.student, images, statistics="running")
    return float(np.square(output.logits.mean((1, 2, 3)) - wanted).mean())


@pytest.fixture(scope="module")
def alone():
    return run("jit", 1)


def test_the_answer_is_in_the_batch(alone):
    losses, state = alone
    assert losses[0] == pytest.approx(expected_loss(0), rel=1e-5)
    assert len(set(losses)) == 3
    assert int(state.step) == 3


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_more_devices_give_the_same(alone, mode):
    losses, state = run(mode, 4)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.student,
        alone[1].student,
    )


def test_streams_and_lookups_are_told_apart():
    stream = StreamSpec(domain="target", batch_size=1, transform=dict)
    lookup = Lookup(answer=answer)
    assert split_streams({"a": stream, "b": lookup}) == ({"a": stream}, {"b": lookup})
