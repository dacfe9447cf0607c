"""The one train step; every method runs through it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from sfda_jax.methods.base import MethodBase
from sfda_jax.ops.collectives import psum
from sfda_jax.train.optim import ScheduleState
from sfda_jax.types import AdaptState, Batch, Key, Metrics, ModelState, Targets

StepFn = Callable[[AdaptState, Batch, Key], tuple[AdaptState, Metrics]]
AnnotateFn = Callable[[AdaptState, Batch, Key], tuple[AdaptState, Targets]]
UpdateFn = Callable[[AdaptState, Batch, Targets, Key], tuple[AdaptState, Metrics]]


def make_train_step(
    method: MethodBase, optimizer: optax.GradientTransformation
) -> StepFn:
    """The pure step `(state, batch, key) -> (state, metrics)`, not compiled.

    In order: fold the step number into the key; `annotate`; loss and gradient, summed
    over devices; optimiser; new parameters, statistics and step number;
    `after_update`. Metrics are the method's, summed over devices, with `loss`,
    `grad_norm` and, if the optimiser keeps it, `learning_rate`.

    Args:
        method: localised to one device under `pmap` (its `axis_name` set).
        optimizer: whose state `state.opt_state` is.
    """
    annotate, update = make_step_halves(method, optimizer)

    def step(state: AdaptState, batch: Batch, key: Key) -> tuple[AdaptState, Metrics]:
        state, targets = annotate(state, batch, key)
        return update(state, batch, targets, key)

    return step


def make_step_halves(
    method: MethodBase, optimizer: optax.GradientTransformation
) -> tuple[AnnotateFn, UpdateFn]:
    """`make_train_step` in two: up to the targets, and from there on.

    Between the two the host may look up what the targets ask for (`types.Lookup`) and
    add it to the batch.
    """
    axis_name = method.axis_name

    def annotate(
        state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        state, targets = method.annotate(state, batch, _keys(state, key)[0])
        return state, jax.lax.stop_gradient(targets)

    def update(
        state: AdaptState, batch: Batch, targets: Targets, key: Key
    ) -> tuple[AdaptState, Metrics]:
        keys = _keys(state, key)
        (loss, aux), grads = jax.value_and_grad(method.loss, has_aux=True)(
            state.student.params, state, batch, targets, keys[1]
        )
        loss, metrics, grads = psum((loss, aux.metrics, grads), axis_name)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.student.params
        )
        params = optax.apply_updates(state.student.params, updates)
        if aux.skip is not None:
            params = _unless(aux.skip, params, state.student.params)
            opt_state = _unless(aux.skip, opt_state, state.opt_state)
        state = state.replace(
            student=ModelState(params, aux.batch_stats),
            opt_state=opt_state,
            step=state.step + 1,
            method=state.method if aux.method is None else aux.method,
        )
        state = method.after_update(state, batch, targets, keys[2])
        metrics = {**metrics, "loss": loss, "grad_norm": optax.tree.norm(grads)}
        rate = optax.tree.get(opt_state, "learning_rate")
        if rate is not None:
            metrics["learning_rate"] = jnp.asarray(rate)
        return state, metrics

    return annotate, update


def _keys(state: AdaptState, key: Key) -> Key:
    """Of the three parts of a step: annotate, loss, after the update."""
    return jax.random.split(jax.random.fold_in(key, state.step), 3)


def _unless(skip: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`old` where `skip` is true; the schedule of learning rates advances anyway."""

    def keep(new, old):
        return new if _is_schedule(new) else jnp.where(skip, old, new)

    return jax.tree.map(keep, new, old, is_leaf=_is_schedule)


def _is_schedule(node: PyTree) -> bool:
    return isinstance(node, ScheduleState)
