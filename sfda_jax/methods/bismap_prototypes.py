"""BiSMAP's anisotropic prototypes: a Gaussian mixture per class labels the target.

Sections 5.2 to 5.4 of its specification, and 10 for the source-free forms. A stage
without steps: its mixtures are one file, its labels train `bismap_self_train`.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from sfda_jax.errors import ConfigError
from sfda_jax.methods.base import MethodBase, RoundContext
from sfda_jax.pseudo_labels import density_threshold
from sfda_jax.pseudo_labels.gaussian_mixtures import Mixtures
from sfda_jax.pseudo_labels.inference import Inference
from sfda_jax.pseudo_labels.label_pass import make_labels
from sfda_jax.pseudo_labels.mixture_fit import MixtureSettings
from sfda_jax.pseudo_labels.mixture_rows import (
    CollectSettings,
    collect_rows,
    fit_mixtures,
)
from sfda_jax.pseudo_labels.prototypes import (
    check_dims,
    evaluated,
    pixel_log_densities,
)
from sfda_jax.pseudo_labels.selector import Selector
from sfda_jax.types import AdaptState, ModelState, StreamSpec

_COLLECT = CollectSettings()
_MIXTURE = MixtureSettings()
_SELECTOR = density_threshold.Selector()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(MethodBase):
    """One round: mixtures are fitted or read, then every target pixel gets a label.

    Features are those of the network that the round's `labels_from` names, the student
    as it is without one, with running statistics.

    Attributes:
        prototypes: `fit_source` on source pixels that the network gets right, as
            published; `load` those of `prototypes_from`; `fit_target` on target pixels
            that the network is surest of, grouped by what it takes them for. The last
            two read no source image.
        prototypes_from: a file `mixtures.npz`, a folder of published files, or an
            earlier stage, `stage:NAME`.
        label_target: label the target's training images; without it the stage leaves
            the mixtures alone, for others to ship.
        source_size: (height, width) that source images are resized to.
        target_size: the same of target images.
        label_size: of the labels; () is the target size.
        batch_size: target images per forward pass.
        flip: average the features of an image and of its mirror image.
        source_mean_twice: see `bismap_base.BothDomains`.
        collect: which features the mixtures are fitted to.
        mixture: how they are fitted.
        selector: which pixels keep their label; its scores are log-densities.
    """

    prototypes: str = "fit_source"
    prototypes_from: str = ""
    label_target: bool = True
    source_size: tuple[int, int] = (1052, 1914)
    target_size: tuple[int, int] = (1024, 2048)
    label_size: tuple[int, ...] = ()
    batch_size: int = 1
    flip: bool = False
    source_mean_twice: bool = False
    collect: CollectSettings = _COLLECT
    mixture: MixtureSettings = _MIXTURE
    selector: Selector = _SELECTOR

    adapts: ClassVar[bool] = False
    changes_network: ClassVar[bool] = False
    choices: ClassVar = {"prototypes": ("fit_source", "load", "fit_target")}

    def __post_init__(self):
        """Checks the settings.

        Raises:
            ConfigError: prototypes to load without a place, a place without a use,
                nothing to do.
        """
        super().__post_init__()
        loads = self.prototypes == "load"
        if loads != bool(self.prototypes_from):
            raise ConfigError(
                f"{self._name}: prototypes is {self.prototypes!r} and prototypes_from "
                f"{self.prototypes_from!r}.",
                hint="'load' needs a mixtures.npz, a folder of published files or "
                "stage:NAME; nothing else takes one.",
            )
        if loads and not self.label_target:
            raise ConfigError(
                f"{self._name}: prototypes are loaded, but label_target is off.",
                hint="Leave the stage out of the pipeline.",
            )

    @property
    def trains_on_source(self) -> bool:
        """Where it fits mixtures to labelled source images."""
        return self.prototypes == "fit_source"

    @property
    def reads_labels_of(self) -> tuple[str, ...]:
        """The stage that left the mixtures, if one did."""
        origin = self.prototypes_from
        return (origin,) if origin.startswith("stage:") else ()

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec]]:
        """Mixtures, then labels; what is there already is not made again."""
        network = state.student if ctx.labeller is None else ctx.labeller
        mixtures = self._mixtures(ctx, network)
        if self.label_target:
            check_dims(mixtures, self.model, network)

            def scores(variables, images):
                network = variables["network"]
                output = evaluated(self.model, network, images, flip=self.flip)
                return pixel_log_densities(
                    variables["mixtures"],
                    output.features,
                    self.label_size or images.shape[1:3],
                    align_corners=self.model.align_corners,
                )

            make_labels(
                ctx,
                model=self.model,
                network=network,
                selector=self.selector,
                inference=Inference(size=self.target_size, batch_size=self.batch_size),
                gamma=self.gamma,
                scores=scores,
                given={"mixtures": mixtures},
            )
        return state, {}

    def _mixtures(self, ctx: RoundContext, network: ModelState) -> Mixtures:
        if self.prototypes == "load":
            return ctx.mixtures(self.prototypes_from)
        kept = ctx.mixtures()
        if kept is not None:
            return kept
        source = self.prototypes == "fit_source"
        pools = collect_rows(
            ctx,
            model=self.model,
            network=network,
            settings=self.collect,
            domain="source" if source else "target",
            size=self.source_size if source else self.target_size,
            gamma=1.0 if source else self.gamma,
            flip=self.flip,
            mean_twice=source and self.source_mean_twice,
        )
        mixtures = fit_mixtures(ctx, pools, settings=self.mixture)
        ctx.keep_mixtures(mixtures)
        return mixtures
