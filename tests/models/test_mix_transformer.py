import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.errors import ConfigError
from sfda_jax.models.depthwise import DepthwiseConv
from sfda_jax.models.mix_transformer import (
    STAGES,
    VARIANTS,
    MixTransformer,
    PatchMerge,
    attend,
)
from sfda_jax.models.stochastic import ChannelDropout, drop_path

# These programs run once; compiling them as usual takes far longer.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
SMALL = MixTransformer(
    embed_dims=(4, 4, 4, 4), depths=(1, 1, 4, 1), num_heads=(1, 2, 2, 2)
)


def normal(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def variables_of(model, x):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    leaves, tree = jax.tree.flatten(shapes)
    drawn = [normal(*leaf.shape, seed=i) * 0.3 for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, drawn)


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_attention_in_chunks_gives_the_same(chunk):
    queries, target = normal(2, 13, 2, 3), normal(2, 13, 2, 3, seed=3)
    keys, values = normal(2, 5, 2, 3, seed=1), normal(2, 5, 2, 3, seed=2)

    def run(chunk):
        def loss(*inputs):
            y = attend(*inputs, chunk=chunk)
            return jnp.square(y - target).sum(), y

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(queries, keys, values)

    for a, b in zip(*map(jax.tree.leaves, (run(chunk), run(0))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_attention_by_hand():
    queries = jnp.asarray([[[[2.0]], [[0.0]]]])
    keys = jnp.asarray([[[[np.log(3.0) / 2]], [[0.0]]]], jnp.float32)
    values = jnp.asarray([[[[1.0]], [[5.0]]]])
    y = attend(queries, keys, values)
    np.testing.assert_allclose(y.ravel(), [2, 3], rtol=1e-6)


def test_chunks_keep_the_weights_out_of_memory():
    def temporary(chunk):
        tokens = jax.ShapeDtypeStruct((1, 4096, 1, 8), jnp.float32)
        keys = jax.ShapeDtypeStruct((1, 256, 1, 8), jnp.float32)
        loss = lambda *x: jnp.square(attend(*x, chunk=chunk)).sum()  # noqa: E731
        program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(tokens, keys, keys)
        return program.compile().memory_analysis().temp_size_in_bytes

    assert temporary(256) < temporary(0) / 4


@pytest.mark.parametrize("dilation", [1, 5])
def test_shifted_depthwise_convolution_equals_xlas(dilation):
    x, target = normal(2, 7, 9, 3), normal(2, 7, 9, 3, seed=1)
    conv = functools.partial(DepthwiseConv, dilation, use_bias=True)
    variables = variables_of(conv(), x)

    def run(shifted):
        def loss(variables, x):
            return jnp.square(conv(shifted=shifted).apply(variables, x) - target).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, x)

    for a, b in zip(*map(jax.tree.leaves, (run(True), run(False))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_patch_merge_is_a_strided_convolution():
    x = normal(1, 7, 11, 3)
    merge = PatchMerge(3)
    variables = variables_of(merge, x)
    kernel, bias = (variables["params"][name] for name in ("kernel", "bias"))
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        x, kernel, (3, 3), "VALID", dimension_numbers=layout
    )
    expected = expected + bias[None, None, None, :]
    np.testing.assert_allclose(merge.apply(variables, x), expected, atol=1e-5)


@pytest.fixture(scope="module")
def encoded():
    """Images, variables, and what the plain encoder makes of them."""
    x = normal(2, 48, 33, 3)
    variables = variables_of(SMALL, x)
    return x, variables, encode(SMALL, variables, x)


def encode(model, variables, x):
    """Maps without skipped blocks, and with."""
    model = model.clone(drop_path_rate=0.6)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(variables, x):
        rngs = {"dropout": jax.random.key(5)}
        skipping = model.apply(variables, x, deterministic=False, rngs=rngs)
        return model.apply(variables, x), skipping

    return run(variables, x)


def test_stages_and_what_skipping_changes(encoded):
    _, _, (plain, skipping) = encoded
    sizes = [(12, 9), (6, 5), (3, 3), (2, 2)]
    assert [y.shape for y in plain] == [(2, *size, 4) for size in sizes]
    # The first block is never skipped, so the first stage stays as it is.
    np.testing.assert_allclose(skipping[0], plain[0], rtol=1e-4, atol=1e-5)
    assert jnp.abs(skipping[3] - plain[3]).max() > 0.1


def test_scan_remat_and_chunks_change_no_number(encoded):
    x, variables, expected = encoded
    settings = {"scan_blocks": True, "remat": STAGES, "attention_chunk": 5}
    found = encode(SMALL.clone(**settings), variables, x)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_and_gives_float32(encoded):
    x, variables, (plain, _) = encoded
    half = SMALL.clone(dtype="bfloat16")
    found = jax.jit(half.apply, compiler_options=QUICK)(variables, x)
    for a, b in zip(found, plain, strict=True):
        assert a.dtype == jnp.float32
        error = jnp.sqrt(jnp.square(a - b).mean() / jnp.square(b).mean())
        assert 0 < error < 0.05


def test_published_sizes():
    def count(variant):
        x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        init = MixTransformer(variant).init
        shapes = jax.eval_shape(init, jax.random.key(0), x)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert set(VARIANTS) == {f"b{i}" for i in range(6)}
    assert count("b0") == 3_319_392
    assert count("b2") == 24_196_288


def test_faults_are_named():
    def init(model, size):
        x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        jax.eval_shape(model.init, jax.random.key(0), x)

    with pytest.raises(ConfigError, match="at least 32x32"):
        init(SMALL, 16)
    with pytest.raises(ConfigError, match="Did you mean 'b5'"):
        init(MixTransformer("b55"), 32)
    with pytest.raises(ConfigError, match="stage1"):
        init(SMALL.clone(remat=("stage9",)), 32)


def test_skipped_images_and_the_scale_of_the_others():
    x = jnp.ones((64, 2, 1, 3))
    y = drop_path(x, jnp.float32(0.25), jax.random.key(0))
    per_image = y.reshape(64, -1)
    kept = per_image[:, 0] > 0
    assert 30 < int(kept.sum()) < 60
    expected = jnp.where(kept, 4 / 3, 0.0)[:, None]
    np.testing.assert_allclose(per_image, jnp.broadcast_to(expected, (64, 6)))
    np.testing.assert_array_equal(drop_path(x, jnp.float32(0), jax.random.key(0)), x)


def test_channels_drop_as_a_whole_and_per_image():
    x = jnp.ones((8, 3, 2, 16))
    rngs = {"dropout": jax.random.key(0)}
    drop = ChannelDropout(0.5)
    y = drop.apply({}, x, deterministic=False, rngs=rngs)
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert len(np.unique(np.asarray(y[:, 0, 0]), axis=0)) > 1
    assert drop.apply({}, x, deterministic=True) is x


def test_decisions_do_not_depend_on_the_number_of_devices():
    x, key = normal(6, 2, 2, 3), jax.random.key(1)

    def drops(x, axis_name=None):
        y = drop_path(x, jnp.float32(0.5), key, axis_name=axis_name)
        module = ChannelDropout(0.5, axis_name)
        z = module.apply({}, x, deterministic=False, rngs={"dropout": key})
        return y, z

    shards = jax.vmap(functools.partial(drops, axis_name="data"), axis_name="data")
    for a, b in zip(shards(x.reshape(3, 2, 2, 2, 3)), drops(x), strict=True):
        np.testing.assert_array_equal(a.reshape(b.shape), b)
