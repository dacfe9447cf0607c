"""What a method is: a frozen dataclass of settings and a handful of pure functions."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from sfda_jax.pseudo_labels.services import RoundContext
from sfda_jax.registry import check_choice
from sfda_jax.tasks import Task
from sfda_jax.types import AdaptState, Batch, Key, Lookup, LossAux, StreamSpec, Targets


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodBase:
    """Defaults for the parts that most methods do not need.

    Subclasses are called `Method`, live one per module, and define `begin_round`,
    `annotate` and `loss`. Losses return *this shard's share* of the global loss
    (denominators summed over `axis_name`): the step sums gradients over devices.

    Attributes:
        model: the network, a Linen module.
        task: domains and classes.
        gamma: exponent of a tone curve on every target image the evaluated network
            sees (training, evaluation, prediction); 1.0 leaves images as they are.
        axis_name: device axis under `pmap`, None under `jit`; set by the driver.
        label_maps: name under which a round stores what it trains on, for the report.
        adapts: whether its steps train on unlabelled target images, so that it may
            collapse.
        changes_network: False where it only prepares something for later stages:
            tables then leave its network out, it is that of the stage before.
        choices: field → the words it may be; all are checked as a method is made.
    """

    model: nn.Module
    task: Task
    gamma: float = 1.0
    axis_name: str | None = None

    label_maps: ClassVar[str] = "labels"
    adapts: ClassVar[bool] = True
    changes_network: ClassVar[bool] = True
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __post_init__(self):
        """Checks the choices; a subclass that checks more calls this first.

        Raises:
            ConfigError: a word that is none of its field's.
        """
        for field, known in self.choices.items():
            check_choice(f"{self._name}: {field}", getattr(self, field), known)

    @property
    def _name(self) -> str:
        """The method's, as recipes write it: its module's."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def trains_on_source(self) -> bool:
        """Whether labelled source images are read: refused once a task is source-free.

        A property, as it may depend on the settings.
        """
        return False

    @property
    def reads_labels_of(self) -> tuple[str, ...]:
        """Earlier stages, `stage:NAME`, whose label maps a round reads."""
        return ()

    def init(self, state: AdaptState, key: Key) -> AdaptState:
        """Fills `state.method` and copies a teacher, once, as the stage starts."""
        return state

    def begin_round(
        self, ctx: RoundContext, state: AdaptState
    ) -> tuple[AdaptState, Mapping[str, StreamSpec | Lookup]]:
        """Host work of a round; may be slow.

        Returns the state, and the streams and look-ups of its batches by name.
        """
        raise NotImplementedError

    def annotate(
        self, state: AdaptState, batch: Batch, key: Key
    ) -> tuple[AdaptState, Targets]:
        """Pure, no gradient: teacher pass, pre-step EMA, mixing."""
        raise NotImplementedError

    def loss(
        self,
        params: PyTree,
        state: AdaptState,
        batch: Batch,
        targets: Targets,
        key: Key,
    ) -> tuple[Float[Array, ""], LossAux]:
        """Pure: this shard's share of the loss, metrics and new statistics."""
        raise NotImplementedError

    def after_update(
        self, state: AdaptState, batch: Batch, targets: Targets, key: Key
    ) -> AdaptState:
        """Pure: what follows the optimiser (post-step EMA, teacher decision)."""
        return state
