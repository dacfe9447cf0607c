"""The networks that published checkpoints fill: settings, size and cost."""

import dataclasses
import importlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sfda_jax.registry import resolve
from sfda_jax.weights.layout import abstract_state

COST_SIZE = (512, 1024)
"""Height and width of the image whose forward pass `gflops` counts."""

# The numbers below are `measure`'s; tests measure a few of them again.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network as its authors configured it.

    Attributes:
        kind: its `models/` module.
        layout: of its published files; empty where any of the kind's will do.
        preset: of its settings in the module's `PUBLISHED`; empty for the defaults.
        segments: False for extractors of features, which no file is taken for unless
            its name or the user says so.
        num_classes: what `parameters` and `gflops` are counted with.
        parameters: millions of trained numbers.
        gflops: of one image at `COST_SIZE`, a multiplication and an addition counted
            as two.
    """

    kind: str
    layout: str = ""
    preset: str = ""
    segments: bool = True
    num_classes: int = 19
    parameters: float | None = None
    gflops: int | None = None

    @property
    def marks(self) -> tuple[tuple[str, ...], ...]:
        """Our paths of two or three leaves by which a file shows that it holds this.

        The first is the backbone's; empty where nothing is known of the kind.
        """
        return tuple(tuple(path.split("/")) for path in _MARKS.get(self.kind, ()))

    @property
    def settings(self) -> dict[str, Any]:
        """Attributes of the `Model`, class count left out."""
        if not self.preset:
            return {}
        module = importlib.import_module(f"sfda_jax.models.{self.kind}")
        return dict(module.PUBLISHED[self.preset])

    def build(self, **settings: Any) -> nn.Module:
        """The network; `settings` go before the published ones."""
        factory = resolve("models", self.kind)
        chosen = {"num_classes": self.num_classes, **self.settings, **settings}
        return factory(**chosen)


_RESNET, _MIT = "backbone/layer1_0/conv1/kernel", "backbone/norm1/scale"
_MARKS = {
    "daformer": (_MIT, "head/fuse/bottleneck/conv/kernel"),
    "deeplab_v2": (_RESNET, "head/branch0/kernel"),
    "deeplab_v2_projection": (
        *(_RESNET, "head/branch0/kernel"),
        "projection/layer1/conv/kernel",
    ),
    "deeplab_v2_vgg": ("backbone/conv1_0/kernel", "head/branch0/kernel"),
    "deeplab_v3_plus": (_RESNET, "head/fuse/aspp/merge/conv/kernel"),
    "segformer": (_MIT, "head/fuse/mix/conv/kernel"),
    "simclr": (_RESNET, "head/kernel"),
    "wide_resnet38": ("backbone/layer2_0/conv1/kernel", "head/conv1/kernel"),
}


def _deeplab_v2(preset: str, parameters: float, gflops: int) -> Network:
    # The variants share their shapes; what tells their files apart is the layout.
    return Network(
        kind="deeplab_v2",
        layout="deeplab_v2" if preset == "stable_st" else f"deeplab_v2_{preset}",
        preset=preset,
        parameters=parameters,
        gflops=gflops,
    )


def _simclr(preset: str, parameters: float, gflops: int) -> Network:
    return Network(
        kind="simclr",
        preset=preset,
        segments=False,
        num_classes=1000,
        parameters=parameters,
        gflops=gflops,
    )


_SEGFORMERS = {
    "b0": (3.72, 40),
    "b1": (13.68, 76),
    "b2": (27.36, 273),
    "b3": (47.24, 350),
    "b4": (64.01, 431),
    "b5": (84.61, 503),
}

NETWORKS: dict[str, Network] = {
    "deeplab_v2": _deeplab_v2("stable_st", 43.80, 716),
    "deeplab_v2_crst": _deeplab_v2("crst", 43.80, 730),
    "deeplab_v2_iast": _deeplab_v2("iast", 43.80, 716),
    # With a projection before without, or the file's would be left out.
    "deeplab_v2_projection": Network(
        kind="deeplab_v2_projection", parameters=49.17, gflops=721
    ),
    "deeplab_v2_atp": _deeplab_v2("atp", 43.92, 721),
    "deeplab_v2_vgg": Network(kind="deeplab_v2_vgg", parameters=29.57, gflops=628),
    "deeplab_v3_plus": Network(
        kind="deeplab_v3_plus", layout="deeplab_v3_plus", parameters=59.34, gflops=330
    ),
    "wide_resnet38": Network(kind="wide_resnet38", parameters=124.03, gflops=2295),
    "daformer_atp": Network(
        kind="daformer", preset="atp", parameters=85.55, gflops=561
    ),
    "daformer": Network(
        kind="daformer", preset="daformer", parameters=85.16, gflops=561
    ),
    **{
        f"segformer_{variant}": Network(
            kind="segformer", preset=variant, parameters=parameters, gflops=gflops
        )
        for variant, (parameters, gflops) in _SEGFORMERS.items()
    },
    "simclr_r152_sk1": _simclr("r152_sk1", 90.99, 363),
    "simclr_r101_sk0": _simclr("r101_sk0", 44.55, 163),
}
"""By name, in the order in which an unknown file is tried."""


def measure(model: nn.Module) -> tuple[float, float]:
    """Millions of parameters, and GFLOPs of a forward pass at `COST_SIZE`.

    Nothing is computed or compiled: XLA counts the operations of the traced program,
    a multiplication and an addition as two.
    """
    state = abstract_state(model)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    images = jax.ShapeDtypeStruct((1, *COST_SIZE, 3), jnp.float32)
    lowered = jax.jit(
        lambda variables, x: (
            model.apply(
                variables, x, deterministic=True, use_running_average=True
            ).logits
        )
    ).lower(state.variables, images)
    return count / 1e6, lowered.cost_analysis()["flops"] / 1e9
