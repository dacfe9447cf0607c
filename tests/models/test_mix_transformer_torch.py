"""Our networks against the same ones in PyTorch: outputs, statistics, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.models import daformer, segformer, upernet
from sfda_jax.types import ModelState
from sfda_jax.weights.convert import to_flax, to_torch

torch = pytest.importorskip("torch")
from tests.models import torch_pyramids as theirs  # noqa: E402

ENCODER = {
    "embed_dims": (8, 12, 10, 16),
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 2, 5, 4),
    "reductions": (8, 4, 2, 1),
}
CLASSES, PROJECTION = 5, 6
# These programs run once; compiling them as usual takes far longer.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
HEADS = {
    "daformer": (
        daformer.Model,
        {"embed_channels": 6, "channels": 7, "dilations": (1, 2, 3)},
        lambda dims: theirs.DaformerHead(dims, CLASSES, 6, 7, (1, 2, 3)),
    ),
    "segformer": (
        segformer.Model,
        {"channels": 9},
        lambda dims: theirs.SegformerHead(dims, CLASSES, 9),
    ),
    "upernet": (
        upernet.Model,
        {"channels": 6},
        lambda dims: theirs.UperHead(dims, CLASSES, 6),
    ),
}


def their_network(name):
    """PyTorch's network, every array drawn at random."""
    dims = ENCODER["embed_dims"]
    network = theirs.Network(
        theirs.MixTransformer(*ENCODER.values()),
        HEADS[name][2](dims),
        theirs.ProjectionHead(dims, PROJECTION),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            drawn = torch.randn(value.shape, generator=generator)
            if key.endswith("running_var"):
                drawn = 1 + 0.5 * torch.tanh(drawn)
            elif value.ndim > 1:
                drawn = drawn / np.sqrt(value[0].numel())
            else:
                drawn = 0.3 * drawn + float(key.endswith("weight"))
            value.copy_(drawn)
    return network


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def arrays(network):
    return {k: v.detach().numpy().copy() for k, v in network.state_dict().items()}


def our_outputs(model, variables, x, *, train):
    """Logits and projections, and the statistics afterwards."""

    def both(model, x):
        mode = {"use_running_average": not train}
        maps = model.encode(x, **mode)
        logits = model.classify(model.decode(maps, **mode))
        return logits, model.project(maps, **mode)

    return model.apply(variables, x, method=both, mutable=["batch_stats"])


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def worst(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(relative(nchw(a), b.detach().numpy()) for a, b in pairs)


def differences(name):
    """Largest relative differences: outputs in both modes, statistics, gradients."""
    network = their_network(name)
    build, settings, _ = HEADS[name]
    model = build(CLASSES, **ENCODER, **settings, projection_channels=PROJECTION)
    state = to_flax(arrays(network), model)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 41, 70)).astype(np.float32)
    ours = jnp.asarray(x.transpose(0, 2, 3, 1))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def evaluate(variables):
        return our_outputs(model, variables, ours, train=False)

    found, _ = evaluate(state.variables)
    with torch.no_grad():
        result = {"eval": worst(found, network.eval()(torch.from_numpy(x)))}

    outputs = network.train()(torch.from_numpy(x))
    cotangents = [rng.normal(size=o.shape).astype(np.float32) for o in outputs]
    pairs = list(zip(outputs, cotangents, strict=True))
    sum((o * torch.from_numpy(c)).sum() for o, c in pairs).backward()

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        found, changed = our_outputs(model, variables, ours, train=True)
        pairs = zip(found, cotangents, strict=True)
        value = sum((o * c.transpose(0, 2, 3, 1)).sum() for o, c in pairs)
        return value, (found, changed["batch_stats"])

    step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)
    gradient, (found, changed) = step(state.params)
    result["train"] = worst(found, outputs)
    after = to_torch(ModelState(params=gradient, batch_stats=changed), model)[""]
    running = arrays(network)
    names = [key for key in after if "running" in key]
    result["statistics"] = max(relative(after[k], running[k]) for k in names)
    gradients = dict(network.named_parameters())
    unused = {k for k, p in gradients.items() if p.grad is None}
    assert all(k.startswith("decode_head.conv_seg") for k in unused)
    gradients = {k: p.grad.numpy() for k, p in gradients.items() if k not in unused}
    assert gradients.keys() | set(names) == after.keys()
    largest = max(np.abs(g).max() for g in gradients.values())
    errors = [np.abs(after[k] - g).max() for k, g in gradients.items()]
    return {**result, "gradient": max(errors) / largest}


@pytest.mark.parametrize("name", HEADS)
def test_equal_to_pytorch(name):
    found = differences(name)
    assert found["eval"] < 1e-5 and found["train"] < 1e-4, found
    assert found["statistics"] < 1e-5 and found["gradient"] < 1e-4, found
