"""IAST's losses through a network, and whole training loops, against recorded ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sfda_jax.data.torch_order import whole_batches
from sfda_jax.methods import iast, source_only, warmup_adversarial
from sfda_jax.models.forward import forward
from sfda_jax.ops.resize import resize_bilinear
from sfda_jax.pseudo_labels import instance_adaptive
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.train.optim import OptimizerSettings, make_optimizer
from sfda_jax.train.states import start_state
from sfda_jax.train.step import make_train_step
from sfda_jax.types import ModelState
from sfda_jax.weights.layouts import deeplab_v2_iast as layout
from sfda_jax.weights.layouts import discriminator as discriminator_names
from tests.golden.iast_networks import check_stored, formula_weight, iast_model
from tests.golden.published_weights import fill, nchw, nhwc, published, relmax
from tests.methods.stand_ins import make_task

SYSTEM = "iast"
_WIDTH = 4  # of the discriminator
_TERMS = {
    "target_seg_loss": ("loss_labels",),
    "entropy_reg_loss": ("loss_entropy",),
    "kld_reg_loss": ("loss_kld",),
    "D_Tiny-Predictor_loss": ("loss_discriminator",),
    "mask_loss": ("loss_source", "loss_adversarial"),
}


def images_of(case, domain):
    return (nhwc(case[f"{domain}_u8"]) - 128) / 64


def make_network(num_classes, weight=formula_weight):
    """The tiny network, BatchNorm's affine vectors among its parameters."""
    model = iast_model(
        num_classes,
        frozen_bn=False,
        stem_channels=2,
        planes=(2, 4, 8, 16),
        blocks=(1, 1, 2, 2),
    )
    blank = jnp.zeros((1, 33, 33, 3), jnp.float32)
    variables = fill(
        functools.partial(model.init, jax.random.key(0), blank), layout, weight
    )
    return model, ModelState(variables["params"], variables["batch_stats"])


def make_method(case, kind, model, **settings):
    """The method of a case: warm-up, self-training or supervised."""
    if kind is warmup_adversarial:
        settings |= {
            "adversarial_weight": float(case["w_adv"]),
            "discriminator_width": _WIDTH,
        }
    elif kind is iast:
        settings |= {
            "label_weight": float(case["w_pseudo"]),
            "entropy_weight": float(case["w_ent"]),
            "kld_weight": float(case["w_kld"]),
            "source_weight": float(case["w_source"]),
        }
    else:
        settings |= {"student_statistics": "batch"}
    task = make_task(int(case["num_classes"]))
    return kind.Method(model=model, task=task, **settings)


def start(method, network, optimizer):
    """A stage's first state, the discriminator filled in too."""
    state = start_state(method, optimizer, network, jax.random.key(0))
    if state.method is None:
        return state
    probs = jnp.zeros((1, 33, 33, method.task.classes.num_classes), jnp.float32)
    filled = fill(
        functools.partial(method.discriminator.init, jax.random.key(0), probs),
        discriminator_names,
        lambda name, shape: formula_weight(_recorded(name), shape),
    )
    return state.replace(method=state.method.replace(params=filled["params"]))


def _recorded(name):
    return name.replace("Origin-Predictor", "Tiny-Predictor")


def discriminator_arrays(params):
    found = published({"params": params}, discriminator_names)
    return {_recorded(name): array for name, array in found.items()}


def batch_of(case, labels, rows):
    """The recorded images and labels of a step, by domain."""
    batch = {}
    for domain, name in (("source", "source_label"), ("target", labels)):
        if f"{domain}_u8" not in case.files:
            continue
        batch[domain] = {"images": np.asarray(images_of(case, domain))[rows[domain]]}
        if name is not None and name in case.files:
            batch[domain]["labels"] = case[name][rows[domain]]
    return batch


def check_losses(case, metrics, total):
    for name, parts in _TERMS.items():
        if f"loss/{name}" in case.files:
            found = sum(float(metrics[part]) for part in parts if part in metrics)
            np.testing.assert_allclose(found, case[f"loss/{name}"], rtol=1e-5)
    np.testing.assert_allclose(float(total), case["loss_total"], rtol=1e-5)


def check_segmentor(path):
    case = np.load(path)
    kind = warmup_adversarial if float(case["w_adv"]) else iast
    model, network = make_network(int(case["num_classes"]))
    target = images_of(case, "target")
    predict = jax.jit(functools.partial(forward, model, statistics="running"))
    output, _ = predict(network, target)
    assert relmax(nchw(output.logits), case["eval_decoder_out"]) <= 1e-5
    logits = resize_bilinear(output.logits, target.shape[1:3], align_corners=True)
    assert relmax(nchw(logits)[:, :, ::8, ::8], case["eval_logits_sub"]) <= 1e-5
    assert relmax(nchw(logits)[:, :, 0], case["eval_logits_row0"]) <= 1e-5

    method = make_method(case, kind, model)
    optimizer = make_optimizer(OptimizerSettings())
    state = start(method, network, optimizer)
    rows = dict.fromkeys(("source", "target"), slice(None))
    batch, key = batch_of(case, "pseudo_label", rows), jax.random.key(0)
    _, targets = jax.jit(method.annotate)(state, batch, key)
    grad = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (total, aux), gradient = grad(network.params, state, batch, targets, key)
    check_losses(case, aux.metrics, total)
    check_stored(published({"params": gradient}, layout), case, "g/", 1e-3)
    after = published({"batch_stats": aux.batch_stats}, layout)
    check_stored(after, case, "after/", 1e-5)
    if kind is warmup_adversarial:
        # Adam's first moment after one step is a tenth of the gradient.
        moments = jax.tree.map(lambda m: 10 * m, aux.method.moments.mu)
        check_stored(discriminator_arrays(moments), case, "gD/", 1e-3)


def check_loop(path):
    case = np.load(path)
    kind = iast
    if "w_pseudo" not in case.files:
        kind = warmup_adversarial if "w_adv" in case.files else source_only
    if kind is iast:
        _check_labels(case)
    lr, size = float(case["lr"]), int(case["batch_size"])
    restart = int(case["T_max_epochs"]) * (len(case["source_order"]) // size)
    settings = {"batch_size": size}
    if kind is warmup_adversarial:
        settings |= {
            "discriminator_rate": float(case["lr_d"]),
            "discriminator_end_rate": 1e-3 * lr,
            "restart_steps": restart,
        }
    model, network = make_network(int(case["num_classes"]))
    method = make_method(case, kind, model, **settings)
    optimizer = make_optimizer(
        OptimizerSettings(
            name="adam",
            learning_rate=0.1 * lr,
            head_multiplier=10.0,
            weight_decay=float(case["weight_decay"]),
            schedule="cosine_restart",
            restart_steps=restart,
            end_rate=1e-3 * lr,
            freeze=() if kind is source_only else ("*bn*",),
        )
    )
    first = start(method, network, optimizer)
    state, rows = _run(case, method, optimizer, first)
    for name, parts in _TERMS.items():
        if f"loss/{name}" in case.files:
            found = [
                sum(float(row[part]) for part in parts if part in row) for row in rows
            ]
            np.testing.assert_allclose(found, case[f"loss/{name}"], rtol=1e-4)
    rates = [float(row["learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, case["lr_groups"][:, 0], rtol=1e-6)
    after = published({"batch_stats": state.student.batch_stats}, layout)
    check_stored(after, case, "after/", 1e-4)
    _check_deltas(case, first, state)


def _run(case, method, optimizer, state):
    """The state after the recorded iterations, and the metrics of each."""
    size, rows = int(case["batch_size"]), []
    orders = {
        domain: whole_batches(case[f"{domain}_order"], size)
        for domain in ("source", "target")
        if f"{domain}_order" in case.files
    }
    step = jax.jit(make_train_step(method, optimizer))
    for number in range(int(case["n_iters"])):
        places = np.arange(number * size, (number + 1) * size)
        chosen = {d: order[places % len(order)] for d, order in orders.items()}
        batch = batch_of(case, "pseudo_label", chosen)
        state, metrics = step(state, batch, jax.random.key(0))
        if isinstance(method, source_only.Method):
            metrics["loss_source"] = metrics["loss"]
        rows.append(metrics)
    return state, rows


def _check_deltas(case, first, last):
    """Movement of all parameters, frozen ones included (they do not move)."""
    before, after = (
        published({"params": state.student.params}, layout)
        | (discriminator_arrays(state.method.params) if state.method else {})
        for state in (first, last)
    )
    names = [key for key in case.files if key.startswith("delta/")]
    assert {name.removeprefix("delta/") for name in names} == set(after)
    errors = np.concatenate(
        [
            np.ravel(after[key] - before[key] - case[f"delta/{key}"])
            for key in sorted(after)
        ]
    )
    assert (np.abs(errors) <= 0.05 * float(case["lr"])).mean() >= 0.999
    for key in after:
        if not case[f"delta/{key}"].any():
            np.testing.assert_array_equal(after[key], before[key], err_msg=key)


def _check_labels(case):
    """The generator's labels; float32 may move single pixels over a threshold."""
    scale, num_classes = float(case["G_decoder_scale"]), int(case["num_classes"])

    def weight(name, shape):
        array = formula_weight(f"G.{name}", shape)
        return array * np.float32(scale) if name.startswith("decoder.") else array

    model, network = make_network(num_classes, weight)
    size = int(case["pseudo_batch_size"])
    scores = jax.jit(Inference(batch_size=size).make_scores(model))
    images = images_of(case, "target")
    probs = np.asarray(scores(network.variables, images))
    np.testing.assert_allclose(
        probs.max(-1)[:, ::4, ::4], case["G_conf_sub"], rtol=0, atol=1e-5
    )
    assert (probs.argmax(-1) == case["G_argmax"]).mean() >= 0.999

    selector = instance_adaptive.Selector(
        alpha=float(case["alpha"]),
        beta=float(case["beta"]),
        gamma=float(case["gamma"]),
        instance_size=size,
    )
    state, order = selector.init(num_classes), case["target_order"]
    labels = np.empty_like(case["pseudo_label"])
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        thresholds = jnp.asarray(selector.thresholds(state))
        proposed = selector.propose(jnp.asarray(probs[rows]), thresholds)
        state, labels[rows] = selector.select(state, jax.device_get(proposed))
    trace = np.asarray(selector.summary(state)["trace"])
    for found, name in ((trace[:-1], "theta_before"), (trace[1:], "theta_after")):
        # A confidence may round to the next float16, a two-thousandth away.
        np.testing.assert_allclose(found, case[name], rtol=5e-4)
    assert (labels != case["pseudo_label"]).mean() <= 1e-3


CHECKERS = {"seg_*.npz": check_segmentor, "train_*.npz": check_loop}
"""`train_*`: the recorded pseudo-labels are fed to the training part."""
