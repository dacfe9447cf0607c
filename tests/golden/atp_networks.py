"""Mix Transformer, its heads, projections, inference and checkpoint names of ATP."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sfda_jax.evaluation.class_prior import class_weights
from sfda_jax.evaluation.predictor import (
    Views,
    make_predictor,
    merge_views,
    view_logits,
)
from sfda_jax.evaluation.windows import Windows
from sfda_jax.models import daformer, deeplab_v2_projection, segformer, upernet
from sfda_jax.models.layers import Conv
from sfda_jax.models.mix_transformer import (
    Attention,
    Block,
    MixFfn,
    MixTransformer,
    PatchEmbed,
)
from sfda_jax.models.parameter_groups import rate_and_decay
from sfda_jax.models.projection import ProjectionHead
from sfda_jax.models.pyramid_head import PyramidHead, batch_norm
from sfda_jax.types import SegOutput
from sfda_jax.weights.layout import published_entries
from sfda_jax.weights.layouts import daformer as daformer_names
from sfda_jax.weights.layouts import mix_transformer as mix_transformer_names
from sfda_jax.weights.layouts import segformer as segformer_names
from sfda_jax.weights.layouts import upernet as upernet_names
from tests.golden.published_weights import fill, nchw, nhwc, published, stored

SYSTEM = "atp"
_BLOCK = ("stage1_0",)


def close(found, expected, **tolerance):
    np.testing.assert_allclose(found, expected, **{"rtol": 0, "atol": 0, **tolerance})


def ints(array):
    return tuple(int(n) for n in array)


def part_of_encoder(module, case, x, place):
    """Variables of a part of the encoder, from `w/*`."""
    prefix = mix_transformer_names.encoder_name((*place, "kernel"))
    prefix = prefix.removesuffix("weight")
    init = functools.partial(module.init, jax.random.key(0), x)
    return fill(
        init, mix_transformer_names, stored(case, "w/"), place=place, prefix=prefix
    )


def grid(case, name="x"):
    """Tokens `[b, n, c]` of the case on their grid."""
    tokens = jnp.asarray(case[name])
    return tokens.reshape(tokens.shape[0], *ints(case["HW"]), -1)


def tokens(y):
    return np.asarray(y).reshape(y.shape[0], -1, y.shape[-1])


def check_patch_embed(path):
    case = np.load(path)
    kernel_size, stride = ints(case["meta_kernel_stride"])
    module = PatchEmbed(case["y"].shape[-1], kernel_size, stride)
    x = nhwc(case["x"])
    variables = part_of_encoder(module, case, x, ("patch_embed1",))
    y = jax.jit(module.apply)(variables, x)
    assert y.shape[1:3] == ints(case["HW"])
    close(tokens(y), case["y"], atol=1e-5)


def check_attention(path):
    case = np.load(path)
    _, heads, reduction = ints(case["meta_dim_heads_sr"])
    x = grid(case)
    module = Attention(heads, reduction)
    variables = part_of_encoder(module, case, x, (*_BLOCK, "attn"))
    close(tokens(jax.jit(module.apply)(variables, x)), case["y"], atol=1e-5)


def check_mix_ffn(path):
    case = np.load(path)
    module, x = MixFfn(), grid(case)
    variables = part_of_encoder(module, case, x, (*_BLOCK, "mlp"))
    close(tokens(jax.jit(module.apply)(variables, x)), case["y"], atol=1e-5)


def check_block(path):
    case = np.load(path)
    _, heads, reduction = ints(case["meta_dim_heads_sr"])
    module, x = Block(heads, reduction), grid(case)
    variables = part_of_encoder(module, case, x, _BLOCK)
    y, pull = jax.vjp(jax.jit(functools.partial(module.apply, variables)), x)
    close(tokens(y), case["y"], atol=1e-5)
    (dx,) = pull(grid(case, "cotangent"))
    # Of an element that is almost 0 only the rounding error is left.
    rounding = 1e-6 * np.abs(case["dx"]).max()
    close(tokens(dx), case["dx"], rtol=1e-3, atol=rounding)


def check_encoder_outputs(module, variables, case, atol):
    outputs = jax.jit(module.apply)(variables, nhwc(case["x"]))
    for stage, output in enumerate(outputs):
        close(nchw(output), case[f"out{stage}"], atol=atol)


def check_tiny(path):
    case = np.load(path)
    module = MixTransformer(
        embed_dims=ints(case["meta_dims"]),
        depths=ints(case["meta_depths"]),
        num_heads=ints(case["meta_heads"]),
        reductions=ints(case["meta_sr"]),
    )
    init = functools.partial(module.init, jax.random.key(0), nhwc(case["x"]))
    variables = fill(init, mix_transformer_names, stored(case, "w/"))
    check_encoder_outputs(module, variables, case, 1e-4)


def formula_weight(index, name, shape):
    """The array of this name and place in the listing, as the README has it."""
    count = int(np.prod(shape))
    b = np.sin(0.7310585 * np.arange(count) + 0.3310 * index + 1.0).reshape(shape)
    if len(shape) >= 2:
        array = b * np.sqrt(2 / (count / shape[0]))
    elif name.endswith("running_var"):
        array = 1 + 0.5 * b
    else:
        array = 1 + 0.1 * b if name.endswith("weight") else 0.05 * b
    return array.astype(np.float32)


def check_full_encoder(path):
    case = np.load(path)
    module = MixTransformer(re.match(r"mit_(b\d)_", path.name)[1])
    names = [str(name) for name in case["param_names"]]

    def weight(name, shape):
        index = names.index(name)
        array = formula_weight(index, name, shape)
        sums = array.sum(dtype=np.float64), np.abs(array).sum(dtype=np.float64)
        np.testing.assert_allclose(sums, case["param_sum_abssum"][index], rtol=1e-9)
        return array

    init = functools.partial(module.init, jax.random.key(0), nhwc(case["x"]))
    variables = fill(init, mix_transformer_names, weight)
    check_encoder_outputs(module, variables, case, 5e-4)


def maps_of(case):
    return tuple(nhwc(case[f"feat{i}"]) for i in range(4) if f"feat{i}" in case)


def head_output(head, variables, maps, *, train):
    """Logits, and the statistics afterwards."""

    @jax.jit
    def run(variables, maps):
        mode = {"deterministic": True, "use_running_average": not train}
        return head.apply(
            variables,
            maps,
            method=lambda head, maps: head(head.decode(maps, **mode)),
            mutable=["batch_stats"],
        )

    return run(variables, maps)


def build_head(case, fusion, layout):
    """The head and its variables, from `w/*`."""
    head = PyramidHead(case["y_eval"].shape[1], fusion)

    def init():
        mode = {"deterministic": True, "use_running_average": True}
        return head.init(
            jax.random.key(0),
            maps_of(case),
            method=lambda head, maps: head(head.decode(maps, **mode)),
        )

    weight = stored(case, "w/")
    return head, fill(init, layout, weight, place=("head",), prefix="decode_head.")


def check_statistics(case, changed, **settings):
    found = published(changed, daformer_names, **settings)
    expected = {k.removeprefix("after/") for k in case.files if k.startswith("after/")}
    assert found.keys() == expected
    for name, array in found.items():
        close(array, case[f"after/{name}"], atol=1e-5)


def check_daformer_head(path):
    case = np.load(path)
    fusion = functools.partial(
        daformer.SeparableAspp,
        case["w/embed_layers.0.proj.weight"].shape[0],
        case["w/conv_seg.weight"].shape[1],
        ints(case["meta_dilations"]),
        functools.partial(
            batch_norm("float32", momentum=float(case["meta_bn_momentum"])),
            eps=float(case["meta_bn_eps"]),
        ),
    )
    head, variables = build_head(case, fusion, daformer_names)
    logits, _ = head_output(head, variables, maps_of(case), train=False)
    close(nchw(logits), case["y_eval"], atol=1e-5)
    logits, changed = head_output(head, variables, maps_of(case), train=True)
    close(nchw(logits), case["y_train"], rtol=1e-3)
    check_statistics(case, changed, place=("head",), prefix="decode_head.")


def check_segformer_head(path):
    case = np.load(path)
    channels = case["w/linear_pred.weight"].shape[1]
    norm = batch_norm("float32")
    fusion = functools.partial(segformer.LinearFusion, channels, norm)
    head, variables = build_head(case, fusion, segformer_names)
    logits, _ = head_output(head, variables, maps_of(case), train=False)
    close(nchw(logits), case["y_eval"], atol=1e-4)


def check_uper_head(path):
    case = np.load(path)
    channels = case["w/conv_seg.weight"].shape[1]
    norm = batch_norm("float32")
    fusion = functools.partial(upernet.PyramidFusion, channels, norm)
    head, variables = build_head(case, fusion, upernet_names)
    logits, _ = head_output(head, variables, maps_of(case), train=False)
    close(nchw(logits), case["y_eval"], atol=1e-4)


def check_projection(path, *, single):
    case = np.load(path)
    maps = maps_of(case)[-1:] if single else maps_of(case)
    head = ProjectionHead(case["y_eval"].shape[1])
    place = {"place": ("projection",), "prefix": "auxiliary_head."}
    init = functools.partial(head.init, jax.random.key(0), maps)
    variables = fill(init, daformer_names, stored(case, "w/"), **place)
    close(nchw(head.apply(variables, maps)), case["y_eval"], atol=1e-5)
    y, changed = head.apply(
        variables, maps, use_running_average=False, mutable=["batch_stats"]
    )
    close(nchw(y), case["y_train"], atol=1e-4)
    check_statistics(case, changed, **place)


class Toy(nn.Module):
    """The recorded network: one strided convolution."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, deterministic, use_running_average):
        conv = Conv(self.num_classes, stride=2, padding=1, use_bias=True, name="conv")
        logits = conv(images)
        return SegOutput(logits=logits, features=logits)


def toy(case):
    kernel = jnp.asarray(case["conv_w"]).transpose(2, 3, 1, 0)
    conv = {"kernel": kernel, "bias": jnp.asarray(case["conv_b"])}
    return Toy(kernel.shape[-1]), {"params": {"conv": conv}}, nhwc(case["img"])


def assert_same_classes(probs, logits, expected):
    """Equal predictions wherever the recorded two best logits differ by 1e-4."""
    top = np.sort(logits, axis=1)
    clear = (top[:, -1] - top[:, -2] > 1e-4)[0]
    assert not ((np.asarray(probs).argmax(-1)[0] != expected) & clear).any()


def check_slide_inference(path):
    case = np.load(path)
    model, variables, images = toy(case)
    windows = Windows(size=ints(case["crop"]), stride=ints(case["stride"]))
    views = Views(windows=windows, align_corners=False)
    (logits,) = view_logits(model, variables, images, views)
    close(nchw(logits), case["logits"], atol=1e-5)
    predict = make_predictor(model, label_size=ints(case["ori"]), views=views)
    probs = predict(variables, images)
    expected = jax.nn.softmax(jnp.asarray(case["logits_rescaled"]), axis=1)
    close(nchw(probs), expected, atol=1e-5)
    assert_same_classes(probs, case["logits_rescaled"], case["pred"])


def check_whole_inference(path):
    case = np.load(path)
    model, variables, images = toy(case)
    whole = Views(windows=Windows(), align_corners=False)
    label_size = ints(case["ori"])
    make = functools.partial(make_predictor, model, label_size=label_size, views=whole)
    probs = make()(variables, images)
    close(nchw(probs)[:, :, ::4, ::4], case["prob_rescaled"], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(probs).argmax(-1)[0], case["pred"])
    both = dataclasses.replace(whole, flip=True)
    views = view_logits(model, variables, images[:, :, ::-1], both)
    flipped = merge_views(views[1:], label_size, whole)
    close(nchw(flipped)[:, :, ::4, ::4], case["prob_flipped_meta"], atol=1e-5)
    weights = class_weights(case["class_freq"])
    close(weights, case["class_weight"], atol=1e-5)
    (logits,) = view_logits(model, variables, images, whole)
    close(nchw(jax.nn.softmax(logits)), case["prob_small"], atol=1e-5)
    weighted = make(class_weights=weights)(variables, images)
    found = np.asarray(weighted).argmax(-1)[0]
    np.testing.assert_array_equal(found, case["pred_rgb_anon"])


def check_listing(path, model):
    listing = json.loads(path.read_text())
    found = {e.key: list(e.shape) for e in published_entries(model)}
    expected = {k: v for k, v in listing.items() if "num_batches_tracked" not in k}
    assert found == expected


def check_encoder_names(path):
    check_listing(path, MixTransformer(re.search(r"mit_(b\d)", path.name)[1]))


def daformer_of(path):
    """The network of a listing, sizes read from its name and content."""
    sizes = json.loads(path.read_text())
    return daformer.Model(
        num_classes=sizes["decode_head.conv_seg.bias"][0],
        variant=re.search(r"mit(b\d)", path.name)[1],
        embed_channels=sizes["decode_head.embed_layers.0.proj.bias"][0],
        channels=sizes["decode_head.fuse_layer.bottleneck.conv.weight"][0],
        projection_channels=sizes["auxiliary_head.convs.1.conv.weight"][0],
    )


def deeplab_of(path):
    sizes = json.loads(path.read_text())
    blocks = [
        1 + max(int(m[1]) for k in sizes if (m := re.match(rf".*layer{i}\.(\d+)", k)))
        for i in range(1, 5)
    ]
    return deeplab_v2_projection.Model(
        num_classes=sizes["decode_head.aspp_modules.0.conv.bias"][0],
        blocks=tuple(blocks),
        projection_channels=sizes["auxiliary_head.convs.1.conv.weight"][0],
    )


def check_multipliers(path, build):
    expected = json.loads(path.read_text())
    # The listing of multipliers has no shapes; those of the names beside it do.
    names = path.with_name(path.name.replace("__lr_wd_mult", ""))
    found = {
        entry.key: list(rate_and_decay(entry.path))
        for entry in published_entries(build(names))
        if entry.trainable
    }
    assert found == expected


CHECKERS = {
    "mit_patch_embed_*.npz": check_patch_embed,
    "mit_attention_*.npz": check_attention,
    "mit_mixffn_*.npz": check_mix_ffn,
    "mit_block_*.npz": check_block,
    "mit_tiny_*.npz": check_tiny,
    "mit_b?_forward.npz": check_full_encoder,
    "daformer_head_*.npz": check_daformer_head,
    "segformer_head_*.npz": check_segformer_head,
    "uper_head_*.npz": check_uper_head,
    "proj_head_single_*.npz": functools.partial(check_projection, single=True),
    "proj_head_resize_concat_*.npz": functools.partial(check_projection, single=False),
    "slide_inference_*.npz": check_slide_inference,
    "whole_inference*.npz": check_whole_inference,
    "names_mit_b?.json": check_encoder_names,
    "names_daformer_sepaspp_proj_mitb?.json": lambda path: check_listing(
        path, daformer_of(path)
    ),
    "names_deeplabv2_proj_r*.json": lambda path: check_listing(path, deeplab_of(path)),
    "names_daformer_sepaspp_proj_mitb?__lr_wd_mult.json": functools.partial(
        check_multipliers, build=daformer_of
    ),
    "names_deeplabv2_proj_r*__lr_wd_mult.json": functools.partial(
        check_multipliers, build=deeplab_of
    ),
}
