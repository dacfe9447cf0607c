import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sfda_jax.errors import ConfigError
from sfda_jax.models.layers import BatchNorm, Conv
from sfda_jax.models.repeated import run_blocks
from sfda_jax.models.resnet import ResNet
from tests.models import drawn


class _Block(nn.Module):
    dilation: int = 1

    @nn.compact
    def __call__(self, x, *, use_running_average):
        conv = Conv(3, padding=self.dilation, dilation=self.dilation, name="conv")
        norm = BatchNorm(name="bn")
        return nn.relu(x + norm(conv(x), use_running_average=use_running_average))


class _Stage(nn.Module):
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x):
        dilations = (2, 1, 1, 1, 1, 2)
        return run_blocks(
            lambda block, x: block(x, use_running_average=False),
            [_Block(d, name=f"block{i}") for i, d in enumerate(dilations)],
            x,
            remat=self.remat,
            scan=self.scan,
        )


def _step(stage, variables, x):
    """Loss, new statistics and gradient of one step."""

    def loss(params):
        y, after = stage.apply(
            {**variables, "params": params}, x, mutable=["batch_stats"]
        )
        return jnp.square(y).mean(), after

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def test_same_step_and_same_tree_whatever_is_chosen():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 6, 3)), jnp.float32)
    variables = drawn.variables(_Stage().init, x)
    expected = _step(_Stage(), variables, x)
    for choice in ({"remat": True}, {"scan": True}, {"remat": True, "scan": True}):
        stage = _Stage(**choice)
        shapes = jax.eval_shape(stage.init, jax.random.key(0), x)
        assert jax.tree.structure(shapes) == jax.tree.structure(variables)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            _step(stage, variables, x),
            expected,
        )


def _loops(model, variables):
    """How many loops over blocks, and how many blocks that are computed again."""
    images = jnp.zeros((1, 33, 33, 3))
    program = jax.make_jaxpr(
        lambda v: model.apply(v, images, use_running_average=True)
    )(variables)
    names = [equation.primitive.name for equation in program.eqns]
    return names.count("scan"), names.count("remat2")


def test_resnet_compiles_once_or_computes_again_what_is_chosen():
    plain = ResNet(4, (1, 2, 2, 3), (1, 1, 6, 1))
    images = jnp.zeros((1, 33, 33, 3))
    variables = drawn.variables(plain.init, images, use_running_average=True)
    assert _loops(plain, variables) == (0, 0)
    assert _loops(plain.clone(scan_blocks=True), variables) == (1, 0)
    assert _loops(plain.clone(remat=("layer1", "layer3")), variables) == (0, 7)
    with pytest.raises(ConfigError, match="Did you mean 'layer3'"):
        _loops(plain.clone(remat=("layer_3",)), variables)


class _Noisy(nn.Module):
    """Adds a number and drops some of the sums."""

    @nn.compact
    def __call__(self, x, amount):
        bias = self.param("bias", nn.initializers.ones, (), jnp.float32)
        drop = nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))
        return drop(x + bias * amount)


class _Chain(nn.Module):
    scan: bool = False

    @nn.compact
    def __call__(self, x):
        return run_blocks(
            lambda block, x, amount: block(x, amount),
            [_Noisy(name=f"block{index}") for index in range(5)],
            x,
            scan=self.scan,
            per_block=[jnp.float32(10.0**index) for index in range(5)],
        )


def test_a_value_and_a_key_per_block():
    x = jnp.zeros(64)
    variables = _Chain().init(jax.random.key(0), x)
    assert list(variables["params"]) == [f"block{index}" for index in range(5)]
    chain = _Chain(scan=True)
    np.testing.assert_allclose(chain.apply(variables, x), np.full(64, 11111.0))
    y = chain.apply(variables, x, rngs={"dropout": jax.random.key(1)})
    # One mask in all blocks would leave two values: nothing, or every sum doubled.
    assert len(np.unique(y)) > 4
