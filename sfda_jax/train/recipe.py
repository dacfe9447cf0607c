"""A recipe after checking: plain frozen settings and the built model and methods."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from sfda_jax.data.sized_input import FILTERS
from sfda_jax.data.transforms import Evaluate
from sfda_jax.errors import ConfigError
from sfda_jax.evaluation.confusion import ABSENT
from sfda_jax.evaluation.predictor import AVERAGES, Views
from sfda_jax.evaluation.windows import Windows
from sfda_jax.methods.base import MethodBase
from sfda_jax.registry import check_choice
from sfda_jax.tasks import Domain, Task
from sfda_jax.train.optim import OptimizerSettings

_ACTIONS = ("warn", "stop", "rollback")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where data lies and how it is read.

    Attributes:
        data_dir: prepared sets; empty means `$SFDA_JAX_DATA` or the user's cache.
        manual_dirs: dataset name → folder of the original download.
        workers: reader processes; 0 reads with threads (no start-up cost).
        threads: reader threads where there are no workers.
        partial: the files are part of the published ones: train on what there is of
            a task's lists instead of refusing to.
        generated: procedural images instead of every dataset (benchmarks only).
        generated_size: (height, width) of those images.
    """

    data_dir: str = ""
    manual_dirs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workers: int = 0
    threads: int = 2
    partial: bool = False
    generated: bool = False
    generated_size: tuple[int, int] = (1024, 2048)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelSettings:
    """How the step is compiled.

    Attributes:
        mode: `jit` over a mesh, or `pmap`.
        devices: how many to use; 0 means all.
        matmul_precision: `jax.default_matmul_precision`; empty keeps JAX's default.
        compilation_cache: folder that keeps compiled programs; empty means none.
    """

    mode: str = "jit"
    devices: int = 0
    matmul_precision: str = ""
    compilation_cache: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a network is scored on labelled splits.

    Attributes:
        size: (height, width) the images are resized to, or the longer side alone;
            empty keeps their own. Predictions go back to label size.
        resample: how; see `data.sized_input.SizedInput`.
        batch_size: images per forward pass.
        every: also evaluate on the target every so many steps; 0 means stage ends only.
        scales: input scales averaged over, 1.0 = single scale.
        view_sizes: (height, width) of every scale instead, where factors do not say it.
        flip: average with the mirrored image.
        average: what is averaged, `probs logits view_probs stride_probs class_maps`;
            see `evaluation.predictor.Views`.
        enlarge_twice: logits go to the input's size before the label's (IAST's
            validation, mmsegmentation).
        absent_classes: classes without any pixel are left out of the means (`skip`,
            the official rule) or count 0 (`zero`: IAST, CBST, CRST).
        source: also score every network on the source's eval split, for which its
            files are needed even where no stage trains on them; otherwise this is
            done while the source may be opened, and in continual runs that train on it.
        oracle: keep the best target score under the name `oracle_best`; needs `every`.
        panels: how many target images the report shows.
    """

    size: tuple[int, ...]
    resample: str = "bicubic"
    batch_size: int = 4
    every: int = 0
    scales: tuple[float, ...] = (1.0,)
    view_sizes: tuple[tuple[int, int], ...] = ()
    flip: bool = False
    average: str = "probs"
    enlarge_twice: bool = False
    absent_classes: str = "skip"
    source: bool = False
    oracle: bool = False
    panels: int = 4

    def __post_init__(self):
        """Checks the choices.

        Raises:
            ConfigError: a word or a size that means nothing.
        """
        for name, choices in (
            ("resample", FILTERS),
            ("average", AVERAGES),
            ("absent_classes", ABSENT),
        ):
            check_choice(f"config.evaluation.{name}", getattr(self, name), choices)
        self.transform()

    def transform(self, gamma: float = 1.0) -> Evaluate:
        """The host side of evaluation, for a network that sees this tone curve."""
        return Evaluate(size=self.size, resample=self.resample, gamma=gamma)

    def views(self, model: nn.Module) -> Views:
        """The views that a network is shown, enlarged as its publication does."""
        corners = model.align_corners
        return Views(
            scales=self.scales,
            view_sizes=self.view_sizes,
            flip=self.flip,
            average=self.average,
            align_corners=corners,
            windows=Windows(align_corners=corners) if self.enlarge_twice else None,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """How often the state is saved, in steps; round ends are always saved."""

    every: int = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSettings:
    """How often scalars are fetched and written, in steps."""

    every: int = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class HealthSettings:
    """When an adapting network counts as collapsing, and what is done about it.

    It is looked at on a few unlabelled target images; the signals are those of
    `evaluation.health.Signals`. The bounds lie between what was measured in runs that
    hold what they began with and in runs that lose it; see docs/self_training.md.

    Attributes:
        every: steps of a round between two looks; 0 never looks.
        images: how many target training images are looked at, evenly spread.
        action: `warn` only; `stop` the run; `rollback`: end the stage with its last
            healthy state. Both also look before every save, save no unhealthy state,
            and act at once where one has to be saved (the end of a round).
        patience: unhealthy looks in a row before anything is done.
        max_vanished: of the classes there were at the stage's start, the share that
            may vanish.
        min_classes: of the effective number of classes at the stage's start, the part
            that has to be left.
        max_churn: share of pixels whose class may change between two looks.
        max_drift: total variation that the classes' shares may move from the start.
        certain: drift counts only where entropy has fallen to this part of the start's:
            who recovers from a poor start moves too, but does not grow so sure.
        max_entropy: mean entropy over log C that predictions may reach.
    """

    every: int = 500
    images: int = 8
    action: str = "warn"
    patience: int = 2
    max_vanished: float = 0.34
    min_classes: float = 0.6
    max_churn: float = 0.5
    max_drift: float = 0.3
    certain: float = 0.5
    max_entropy: float = 0.7

    def __post_init__(self):
        """Checks the choices.

        Raises:
            ConfigError: an unknown action, or numbers that mean nothing.
        """
        check_choice("config.health.action", self.action, _ACTIONS)
        if self.every < 0 or self.images < 1 or self.patience < 1:
            raise ConfigError(
                f"config.health has every={self.every}, images={self.images} and "
                f"patience={self.patience}.",
                hint="Expected every >= 0 (0 is off), images >= 1 and patience >= 1.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """One round: its steps, and what it changes in its stage's settings.

    Attributes:
        num_steps: 0 where the round only prepares something.
        settings: of the method, changed in this round.
        optimizer: its settings changed in this round.
        init_from: empty: the round goes on with the stage's state. Otherwise it starts
            afresh from that network (as `Stage.init_from`); only parameters and
            statistics are carried over.
        labels_from: the network that makes the round's labels; empty for the student.
    """

    num_steps: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init_from: str = ""
    labels_from: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: a method, its optimiser, its rounds, and where it starts from.

    Attributes:
        init_from: `previous` (the network the last stage evaluates; at first
            `scratch`), `stage:NAME`, `stage:NAME/ROUND`, `stage:NAME/ROUND@step=N`
            (rounds from 0), the path of a published PyTorch checkpoint or converted
            folder, or `imagenet:PATH` for the backbone alone.
        network: which network is evaluated and handed on, `student` or `teacher`.
        fresh_optimizer: every round starts with a new optimiser, its schedule too.
    """

    name: str
    method: MethodBase
    optimizer: OptimizerSettings
    rounds: tuple[Round, ...]
    init_from: str = "previous"
    network: str = "student"
    fresh_optimizer: bool = False

    @property
    def task(self) -> Task:
        """The recipe's, with the target that this stage adapts to."""
        return self.method.task

    @property
    def trains_on_source(self) -> bool:
        """Whether any of its rounds reads labelled source images."""
        rounds = range(len(self.rounds))
        return any(self.at_round(index)[0].trains_on_source for index in rounds)

    def with_task(self, task: Task) -> "Stage":
        """The same stage for another task."""
        method = dataclasses.replace(self.method, task=task)
        return dataclasses.replace(self, method=method)

    @property
    def method_name(self) -> str:
        """The method's module, e.g. `dtst`: the name recipes call it by."""
        return type(self.method).__module__.rsplit(".", 1)[-1]

    def at_round(self, index: int) -> tuple[MethodBase, OptimizerSettings]:
        """The method and optimiser settings of one round."""
        entry = self.rounds[index]
        return (
            dataclasses.replace(self.method, **entry.settings),
            dataclasses.replace(self.optimizer, **entry.optimizer),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run needs, checked and built."""

    name: str
    seed: int
    task: Task
    model: nn.Module
    stages: tuple[Stage, ...]
    data: DataSettings
    parallel: ParallelSettings
    evaluation: EvaluationSettings
    checkpoint: CheckpointSettings
    log: LogSettings
    health: HealthSettings

    @property
    def domains(self) -> dict[str, Domain]:
        """What its stages read: `source` if they do, and `target`.

        Each of several targets is the `target of` the stage that first adapts to it.
        """
        found = {} if self.task.source is None else {"source": self.task.source}
        targets: dict[Domain, str] = {}
        for stage in sorted(self.stages, key=lambda stage: stage.trains_on_source):
            targets.setdefault(stage.task.target, f"target of {stage.name}")
        if len(targets) == 1:
            targets = dict.fromkeys(targets, "target")
        return found | {name: target for target, name in targets.items()}


@dataclasses.dataclass(frozen=True, order=True)
class Position:
    """Where a run stands: `step` steps of a stage's round are done."""

    stage: int = 0
    round: int = 0
    step: int = 0


def tick(recipe: Recipe, position: Position) -> int:
    """The checkpoint number of a position.

    Counts steps over the whole run, and one more per round, so that rounds without
    steps get a number of their own.
    """
    done = 0
    for s, stage in enumerate(recipe.stages):
        for r, entry in enumerate(stage.rounds):
            if (s, r) == (position.stage, position.round):
                return done + position.step
            done += entry.num_steps + 1
    raise ValueError(f"{position} lies outside the recipe")


def position_of(recipe: Recipe, number: int) -> Position:
    """The position of a checkpoint number; inverse of `tick`."""
    for s, stage in enumerate(recipe.stages):
        for r, entry in enumerate(stage.rounds):
            if number <= entry.num_steps:
                return Position(s, r, number)
            number -= entry.num_steps + 1
    raise ValueError(f"checkpoint {number} lies outside the recipe")


def stage_end(recipe: Recipe, stage: int) -> Position:
    """The last position of a stage."""
    rounds = recipe.stages[stage].rounds
    return Position(stage, len(rounds) - 1, rounds[-1].num_steps)


def describe(recipe: Recipe, position: Position) -> str:
    """A position in words."""
    stage = recipe.stages[position.stage]
    total = stage.rounds[position.round].num_steps
    return (
        f"stage {stage.name!r}, round {position.round + 1}/{len(stage.rounds)}, "
        f"step {position.step}/{total}"
    )
