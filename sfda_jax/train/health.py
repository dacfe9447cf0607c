"""Watches a stage's network without labels: warns of a collapse, stops, rolls back."""

import dataclasses
import io
import logging
import math
import pathlib
import shlex
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from sfda_jax.data.access import DataAccess
from sfda_jax.errors import TrainingError
from sfda_jax.evaluation import health
from sfda_jax.evaluation.health import Signals
from sfda_jax.ops import processes
from sfda_jax.train.loggers import MetricsLog
from sfda_jax.train.recipe import (
    HealthSettings,
    Position,
    Recipe,
    Stage,
    describe,
    position_of,
    tick,
)
from sfda_jax.train.scoring import shown_examples
from sfda_jax.types import ModelState

_log = logging.getLogger(__name__)

_SCALARS = (
    *("entropy", "effective_classes", "vanished"),
    *("churn", "drift", "soft_nd", "ent"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A signal beyond its bound."""

    signal: str
    value: float
    bound: float
    side: str

    def __str__(self) -> str:
        return f"{self.signal} is {self.value:.3g}, {self.side} {self.bound:.3g}"


class Collapse(Exception):
    """A stage's network stays unhealthy, and `health.action` is to do something."""

    def __init__(self, position: Position, findings: Sequence[Finding]):
        self.position, self.findings = position, tuple(findings)
        super().__init__(_listed(findings))


def judge(
    now: Signals, start: Signals, settings: HealthSettings
) -> tuple[Finding, ...]:
    """The signals that speak of a collapse.

    Args:
        now: the look to judge.
        start: the look as the stage began.
        settings: the bounds.
    """
    least = settings.min_classes * start.effective_classes
    certain = now.entropy <= settings.certain * start.entropy
    bounds = (
        ("vanished", now.vanished, settings.max_vanished, "above"),
        ("effective_classes", now.effective_classes, least, "below"),
        ("churn", now.churn or 0.0, settings.max_churn, "above"),
        ("drift", now.drift if certain else 0.0, settings.max_drift, "above"),
        ("entropy", now.entropy, settings.max_entropy, "above"),
    )
    return tuple(
        Finding(signal=signal, value=value, bound=bound, side=side)
        for signal, value, bound, side in bounds
        # NaN is neither above nor below, and not healthy.
        if not (value >= bound if side == "below" else value <= bound)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Look:
    """A look, and how many in a row were unhealthy, itself included."""

    signals: Signals
    unhealthy: int
    predictions: UInt8[np.ndarray, " n"]


class HealthMonitor:
    """Looks at one stage's network now and then, and says what follows from it.

    What it remembers lies beside the stage, one small file per look, so that a resumed
    run sees what an uninterrupted one does. Process 0 looks; all hear the same numbers
    and decide alike, so all have to call the same methods.

    Attributes:
        active: whether it ever looks.
    """

    def __init__(
        self,
        recipe: Recipe,
        run_dir: pathlib.Path,
        *,
        start: Position,
        access: DataAccess,
        log: MetricsLog,
    ):
        """A monitor for a stage that goes on at `start`."""
        self._recipe, self._settings, self._log = recipe, recipe.health, log
        self._stage = recipe.stages[start.stage]
        self.active = is_watched(self._stage, recipe.health)
        if not self.active:
            return
        self._source = access.train("target")
        name = f"{start.stage + 1:02d}-{self._stage.name}"
        self._folder = run_dir / "stages" / name / "health"
        first, here = tick(recipe, Position(start.stage)), tick(recipe, start)
        self._first, self._last = None, None
        if here > first:
            self._first = self._restored(first, first)
            self._last = self._restored(first, here)

    @property
    def acts(self) -> bool:
        """Whether an unhealthy state is not to be saved."""
        return self.active and self._settings.action != "warn"

    def due(self, step: int, *, saving: bool) -> bool:
        """Whether to look after this step of a round; before every save, if it acts."""
        return self.active and (
            step % self._settings.every == 0 or (saving and self.acts)
        )

    def begin(self, position: Position, network: ModelState) -> None:
        """The look that later ones are compared with, as the stage begins."""
        if self.active:
            self._first = self._last = self._look(network, before=None)
            self._keep(position, self._first, ())

    def look(self, position: Position, network: ModelState, *, final: bool) -> bool:
        """Looks, logs and warns; returns whether the state may be saved.

        Args:
            position: where the stage stands.
            network: the one that the stage evaluates.
            final: the state has to be saved now, so that there is no waiting.

        Raises:
            Collapse: unhealthy for `patience` looks, or at a final one, and the
                action is not `warn`.
        """
        found = self._look(network, before=self._last)
        findings = judge(found.signals, self._first.signals, self._settings)
        if findings:
            found = dataclasses.replace(found, unhealthy=self._last.unhealthy + 1)
            place = describe(self._recipe, position)
            _log.warning(
                "Unhealthy at %s: %s. If it goes on, lower config.stages.%s.optimizer."
                "learning_rate.",
                *(place, _listed(findings), self._stage.name),
            )
        self._keep(position, found, findings)
        self._last = found
        spent = final or found.unhealthy >= self._settings.patience
        if findings and self.acts and spent:
            raise Collapse(position, findings)
        return not (findings and self.acts)

    def allows(self, network: ModelState) -> bool:
        """Whether a state may be saved out of turn; leaves no trace."""
        if not self.acts:
            return True
        signals = self._look(network, before=self._last).signals
        return not judge(signals, self._first.signals, self._settings)

    def _look(self, network: ModelState, *, before: _Look | None) -> _Look:
        num_classes = self._recipe.task.classes.num_classes
        if jax.process_index():
            return self._agreed(None, num_classes)
        start = None if self._first is None else self._first.signals.shares
        probs = health.sampled_probs(
            self._recipe.model,
            network.variables,
            self._source,
            positions=shown_examples(self._source, self._settings.images),
            transform=self._recipe.evaluation.transform(self._stage.method.gamma),
        )
        before = None if before is None else before.predictions
        signals = health.measure(probs, before=before, start=start)
        look = _Look(signals=signals, unhealthy=0, predictions=health.predicted(probs))
        return self._agreed(look, num_classes)

    def _agreed(self, look: _Look | None, num_classes: int) -> _Look:
        """Process 0's look, in every process; its predictions are 0's alone."""
        values = np.zeros(len(_SCALARS) + 1 + num_classes)
        if look is not None:
            values[:] = _numbers(look)
        predictions = np.zeros(0, np.uint8) if look is None else look.predictions
        return _from_numbers(processes.total(values), predictions)

    def _restored(self, first: int, last: int) -> _Look:
        """The newest look of the checkpoint numbers `first` to `last`."""
        look = None
        if not jax.process_index():
            numbers = (int(path.stem) for path in self._folder.glob("*.npz"))
            newest = max((n for n in numbers if first <= n <= last), default=None)
            if newest is None:
                raise TrainingError(
                    f"{self._folder}: what the health monitor saw before checkpoint "
                    f"{last} is missing.",
                    hint="Start over in a new --workdir.",
                )
            with np.load(self._folder / f"{newest:08d}.npz") as stored:
                look = _from_numbers(stored["numbers"], stored["predictions"])
        return self._agreed(look, self._recipe.task.classes.num_classes)

    def _keep(
        self, position: Position, look: _Look, findings: Sequence[Finding]
    ) -> None:
        """On disk for those to come, and in the log."""
        number = tick(self._recipe, position)
        if not jax.process_index():
            buffer = io.BytesIO()
            np.savez_compressed(
                buffer, numbers=_numbers(look), predictions=look.predictions
            )
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{number:08d}.npz"
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(buffer.getvalue())
            temporary.replace(path)
        self._log.write(
            number,
            {
                "event": "health",
                "stage": self._stage.name,
                "round": position.round,
                "step": position.step,
                "network": self._stage.network,
                "signals": look.signals.as_record(self._recipe.task.classes.names),
                "warnings": [dataclasses.asdict(finding) for finding in findings],
            },
        )


def is_watched(stage: Stage, settings: HealthSettings) -> bool:
    """Whether a stage is looked at: it adapts, and in steps enough for one look."""
    least = settings.every if settings.action == "warn" else 1
    steps = max(entry.num_steps for entry in stage.rounds)
    return bool(settings.every) and stage.method.adapts and steps >= least


def stop_error(
    recipe: Recipe, run_dir: pathlib.Path, collapse: Collapse, kept: int | None
) -> TrainingError:
    """The end of a run whose action is `stop`: what was seen, kept, and can be done.

    Args:
        recipe: the recipe.
        run_dir: its run directory.
        collapse: what was seen.
        kept: number of the newest checkpoint, None where there is none.
    """
    stage = recipe.stages[collapse.position.stage]
    seen = (
        f"The network collapses at {describe(recipe, collapse.position)}, as its "
        f"predictions on unlabelled images say: {_listed(collapse.findings)}."
    )
    retry = (
        f"Lower --config.stages.{stage.name}.optimizer.learning_rate in a new "
        "--workdir."
    )
    if kept is None:
        return TrainingError(f"{seen} No checkpoint was written before.", hint=retry)
    folder = run_dir / "checkpoints" / str(kept)
    place = position_of(recipe, kept)
    network, healthy = recipe.stages[place.stage].network, run_dir / "healthy"
    main = "python -m sfda_jax.main"
    where = f"--workdir={shlex.quote(str(run_dir))}"
    return TrainingError(
        f"{seen} Kept is the last healthy state, of {describe(recipe, place)}: "
        f"{folder}.",
        hint=f"{retry} To use what is kept:\n"
        f"  {main} convert {where} --checkpoint={shlex.quote(str(folder))} "
        f"--entry={network} --out={shlex.quote(str(healthy))}\n"
        f"  {main} evaluate {where} --stage={recipe.stages[place.stage].name} "
        f"--checkpoint={shlex.quote(str(healthy))}",
    )


def log_rollback(
    recipe: Recipe, log: MetricsLog, collapse: Collapse, to: Position | None
) -> None:
    """Says where a stage ended early; `to` is None where nothing of it was kept."""
    here = collapse.position
    stage = recipe.stages[here.stage].name
    kept = "its start" if to is None else describe(recipe, to)
    _log.warning("Stage %r ends here, with the state of %s.", stage, kept)
    log.write(
        tick(recipe, here),
        {
            "event": "rollback",
            "stage": stage,
            "round": here.round,
            "step": here.step,
            "to_round": 0 if to is None else to.round,
            "to_step": 0 if to is None else to.step,
        },
    )


def _listed(findings: Sequence[Finding]) -> str:
    return "; ".join(map(str, findings))


def _numbers(look: _Look) -> Float[np.ndarray, " m"]:
    values = (getattr(look.signals, name) for name in _SCALARS)
    scalars = [math.nan if value is None else value for value in values]
    return np.array([*scalars, look.unhealthy, *look.signals.shares], np.float64)


def _from_numbers(
    numbers: Float[np.ndarray, " m"], predictions: UInt8[np.ndarray, " n"]
) -> _Look:
    count = len(_SCALARS)
    values = dict(zip(_SCALARS, numbers[:count].tolist(), strict=True))
    if math.isnan(values["churn"]):
        values["churn"] = None
    signals = Signals(**values, shares=numbers[count + 1 :])
    return _Look(
        signals=signals, unhealthy=int(numbers[count]), predictions=predictions
    )
