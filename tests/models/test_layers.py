import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sfda_jax.models.layers import BatchNorm, Conv, conv3x3

_RNG = np.random.default_rng(0)


def _normal(*shape):
    return jnp.asarray(_RNG.normal(size=shape), jnp.float32)


def _plain(x, kernel, *, stride=1, padding=0, dilation=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding),) * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("dilation", [1, 3, 12])
def test_conv3x3_gradient_equals_the_derived_one(dilation):
    x, kernel, target = _normal(2, 7, 9, 3), _normal(3, 3, 3, 4), _normal(2, 7, 9, 4)

    def gradients(conv):
        def loss(x, kernel):
            return jnp.square(conv(x, kernel) - target).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(x, kernel)

    ours = gradients(lambda x, k: conv3x3(x, k, dilation))
    derived = gradients(functools.partial(_plain, padding=dilation, dilation=dilation))
    for a, b in zip(ours, derived, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_conv3x3_gradient_of_gradient():
    x, kernel = _normal(1, 5, 5, 2), _normal(3, 3, 2, 2)

    def second(conv):
        inner = jax.grad(lambda k: jnp.square(conv(x, k)).sum())
        return jax.jit(jax.grad(lambda k: jnp.square(inner(k)).sum()))(kernel)

    np.testing.assert_allclose(
        second(lambda x, k: conv3x3(x, k, 2)),
        second(functools.partial(_plain, padding=2, dilation=2)),
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation"),
    [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 2, 2), (3, 2, 1, 1), (7, 2, 3, 1)],
)
def test_conv_equals_the_plain_convolution(kernel_size, stride, padding, dilation):
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    conv = Conv(4, kernel_size, **settings)
    x = _normal(2, 9, 11, 3)
    params = conv.init(jax.random.key(0), x)
    expected = _plain(x, params["params"]["kernel"], **settings)
    np.testing.assert_allclose(conv.apply(params, x), expected, rtol=1e-5, atol=1e-5)


def test_conv_bias_and_computation_dtype():
    conv = Conv(2, 1, use_bias=True, dtype="bfloat16")
    x = _normal(1, 2, 2, 4)
    params = conv.init(jax.random.key(0), x)["params"]
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert (jnp.abs(params["bias"]) <= 0.5).all()
    assert conv.apply({"params": params}, x).dtype == jnp.bfloat16


def _expected_statistics(x, momentum):
    flat = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return momentum * flat.mean(0), 1 - momentum + momentum * flat.var(0, ddof=1)


def test_batch_norm_updates_like_pytorch_even_far_from_zero():
    x = 50 + _normal(2, 3, 4, 5)
    norm = BatchNorm(momentum=0.2)
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    assert set(variables["params"]) == {"scale", "bias"}
    y, new = norm.apply(
        variables, x, use_running_average=False, mutable=["batch_stats"]
    )
    mean, var = _expected_statistics(x, 0.2)
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-5)
    flat = np.asarray(x, np.float64).reshape(-1, 5)
    normalized = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 5), normalized, atol=2e-5)


def test_batch_norm_with_stored_statistics_changes_nothing():
    x = _normal(2, 3, 4, 5)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    y, new = norm.apply(variables, x, use_running_average=True, mutable=["batch_stats"])
    jax.tree.map(
        np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"]
    )
    np.testing.assert_allclose(y, x, rtol=1e-5)


def test_batch_norm_batch_statistics_without_update():
    x = _normal(2, 3, 4, 5)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    y = norm.apply(variables, x, use_running_average=False)
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(5), atol=1e-6)


def test_frozen_batch_norm_has_no_parameters_and_can_be_re_estimated():
    x = _normal(2, 3, 4, 5).at[..., 0].set(3.0)
    norm = BatchNorm(frozen=True, eps=0.0, momentum=1.0)
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    assert set(variables) == {"batch_stats"}
    y, new = norm.apply(
        variables, x, use_running_average=False, mutable=["batch_stats"]
    )
    mean, var = _expected_statistics(x, 1.0)
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(new["batch_stats"]["scale"], np.ones(5))
    assert jnp.isfinite(y).all() and (y[..., 0] == 0).all()


def test_fixed_batch_norm_ignores_the_batch():
    x = _normal(2, 3, 4, 5)
    norm = BatchNorm(fixed=True, frozen=True)
    variables = norm.init(jax.random.key(0), x, use_running_average=True)
    y, new = norm.apply(
        variables, x, use_running_average=False, mutable=["batch_stats"]
    )
    jax.tree.map(
        np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"]
    )
    np.testing.assert_allclose(y, x, rtol=1e-5)


def test_batch_norm_over_devices_equals_one_device_with_the_whole_batch():
    x = _normal(4, 3, 3, 2)
    whole, sharded = BatchNorm(), BatchNorm(axis_name="data")
    variables = sharded.init(jax.random.key(0), x, use_running_average=False)

    def forward(norm, x):
        return norm.apply(
            variables, x, use_running_average=False, mutable=["batch_stats"]
        )

    expected, expected_new = forward(whole, x)
    shards = x.reshape(2, 2, 3, 3, 2)
    y, new = jax.vmap(functools.partial(forward, sharded), axis_name="data")(shards)
    np.testing.assert_allclose(y.reshape(x.shape), expected, atol=1e-6)
    for name, value in expected_new["batch_stats"].items():
        for shard in range(2):
            np.testing.assert_allclose(
                new["batch_stats"][name][shard], value, rtol=1e-5, atol=1e-7
            )
