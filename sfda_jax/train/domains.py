"""The labelled splits that a run's networks are scored on.

In an ordinary run these are the target's and, while it may be opened, the source's. In
a continual run, whose stages adapt to one domain after the other, every network is
scored on all domains seen so far, and the source network on all that will come.
"""

import collections
import dataclasses

from sfda_jax.tasks import Domain
from sfda_jax.train.origins import stage_origin
from sfda_jax.train.recipe import Recipe

Place = tuple[str, str, str]
START = -1
"""The "stage" of a network that a run is given, before it adapts anything."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredSplit:
    """A labelled split, and the tone curve through which a network sees it.

    Attributes:
        title: its name in tables, unique in the run.
        side: the domain it belongs to.
        gamma: of the newest stage that adapted to this domain, 1.0 where none did.
    """

    title: str
    side: Domain
    gamma: float


def place(side: Domain) -> Place:
    """What makes two domains one column: dataset, variant and evaluation split."""
    return side.dataset, side.variant, side.eval


def is_continual(recipe: Recipe) -> bool:
    """Whether its stages adapt to more than one domain."""
    return len({place(stage.task.target) for stage in recipe.stages}) > 1


def split_titles(recipe: Recipe) -> dict[Place, str]:
    """Every evaluation split of a run, in order of appearance, the source's first.

    The title is the split's name, with its dataset's, and then its variant's, in front
    where several have that name.
    """
    source = recipe.task.source
    sides = [source] if source is not None and source.eval else []
    sides += [stage.task.target for stage in recipe.stages]
    places = list(dict.fromkeys(place(side) for side in sides))
    splits = collections.Counter(p[2] for p in places)
    datasets = collections.Counter((p[0], p[2]) for p in places)
    titles = {}
    for dataset, variant, split in places:
        names = [dataset] if splits[split] > 1 else []
        names += [variant] if datasets[dataset, split] > 1 else []
        titles[dataset, variant, split] = " ".join(filter(None, [*names, split]))
    return titles


def scored_splits(
    recipe: Recipe, index: int, *, source_open: bool
) -> dict[str, ScoredSplit]:
    """What a stage's network is scored on: `target`, `source`, then others by title.

    Args:
        recipe: the recipe.
        index: the stage, or `START`.
        source_open: whether the source may be opened at that stage.
    """
    stages, titles = recipe.stages, split_titles(recipe)
    continual, source = is_continual(recipe), recipe.task.source
    seen = stages[: max(index, 0) + 1]
    found: dict[Place, tuple[Domain, float]] = {}
    for stage in reversed(seen) if continual else seen[-1:]:
        gamma = 1.0 if index == START else stage.method.gamma
        found.setdefault(place(stage.task.target), (stage.task.target, gamma))
    own = next(iter(found))
    wanted = source_open or continual or recipe.evaluation.source
    if source is not None and source.eval and wanted:
        found.setdefault(place(source), (source, 1.0))
    if continual and index == source_network(recipe):
        for stage in stages:
            found.setdefault(place(stage.task.target), (stage.task.target, 1.0))
    names = {own: "target"}
    if source is not None:
        names.setdefault(place(source), "source")
    return {
        names.get(key, titles[key]): ScoredSplit(
            title=titles[key], side=side, gamma=gamma
        )
        for key, (side, gamma) in found.items()
    }


def source_network(recipe: Recipe) -> int:
    """The stage whose network is not adapted yet: the first, or what a run is given."""
    if recipe.stages[0].trains_on_source or stage_origin(recipe, 0) == "scratch":
        return 0
    return START
