"""Class spaces, and tasks: which domains, which classes, which headline number."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from sfda_jax.errors import ConfigError
from sfda_jax.registry import closest


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassSpace:
    """Names, colours and averaging subsets of one set of training ids.

    Attributes:
        name: e.g. `cityscapes19`.
        names: class names, index = train id.
        palette: uint8[C,3] RGB.
        subsets: headline name → train ids averaged under it.
        dice: whether tables show Dice beside IoU, as the field does.
        image_means: train ids whose scores are also averaged over images.
    """

    name: str
    names: tuple[str, ...]
    palette: np.ndarray
    subsets: Mapping[str, tuple[int, ...]]
    dice: bool = False
    image_means: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """C, the width of the network's head."""
        return len(self.names)


# name, RGB, in the 16-class space, in the 13-class average (the CrossCity space too)
_CITYSCAPES = (
    ("road", (128, 64, 128), 1, 1),
    ("sidewalk", (244, 35, 232), 1, 1),
    ("building", (70, 70, 70), 1, 1),
    ("wall", (102, 102, 156), 1, 0),
    ("fence", (190, 153, 153), 1, 0),
    ("pole", (153, 153, 153), 1, 0),
    ("traffic light", (250, 170, 30), 1, 1),
    ("traffic sign", (220, 220, 0), 1, 1),
    ("vegetation", (107, 142, 35), 1, 1),
    ("terrain", (152, 251, 152), 0, 0),
    ("sky", (70, 130, 180), 1, 1),
    ("person", (220, 20, 60), 1, 1),
    ("rider", (255, 0, 0), 1, 1),
    ("car", (0, 0, 142), 1, 1),
    ("truck", (0, 0, 70), 0, 0),
    ("bus", (0, 60, 100), 1, 1),
    ("train", (0, 80, 100), 0, 0),
    ("motorcycle", (0, 0, 230), 1, 1),
    ("bicycle", (119, 11, 32), 1, 1),
)

_CAMVID = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)

_POLYP = (("background", (0, 0, 0)), ("polyp", (255, 255, 255)))

_ISPRS = (
    ("impervious surface", (255, 255, 255)),
    ("building", (0, 0, 255)),
    ("low vegetation", (0, 255, 255)),
    ("tree", (0, 255, 0)),
    ("car", (255, 255, 0)),
    ("clutter", (255, 0, 0)),
)


def _space(name, rows, subsets, **scores):
    return ClassSpace(
        name=name,
        names=tuple(row[0] for row in rows),
        palette=np.array([row[1] for row in rows], np.uint8),
        subsets=subsets,
        **scores,
    )


def _ids(rows, column):
    return tuple(i for i, row in enumerate(rows) if row[column])


_SIXTEEN = tuple(row for row in _CITYSCAPES if row[2])
_THIRTEEN = tuple(row for row in _CITYSCAPES if row[3])

CLASS_SPACES: Mapping[str, ClassSpace] = {
    space.name: space
    for space in (
        _space(
            "cityscapes19",
            _CITYSCAPES,
            {
                "mIoU19": tuple(range(19)),
                "mIoU16": _ids(_CITYSCAPES, 2),
                "mIoU13": _ids(_CITYSCAPES, 3),
            },
        ),
        _space(
            "synthia16",
            _SIXTEEN,
            {"mIoU16": tuple(range(16)), "mIoU13": _ids(_SIXTEEN, 3)},
        ),
        _space("crosscity13", _THIRTEEN, {"mIoU13": tuple(range(13))}),
        _space(
            "camvid11",
            _CAMVID,
            {"mIoU11": tuple(range(11)), "mIoU6": (0, 1, 3, 4, 5, 8)},
        ),
        _space(
            "polyp2",
            _POLYP,
            {"mIoU2": (0, 1), "IoU_polyp": (1,)},
            dice=True,
            image_means=(1,),
        ),
        _space(
            "isprs6",
            _ISPRS,
            {"mIoU6": tuple(range(6)), "mIoU5": tuple(range(5))},  # without clutter
            dice=True,
        ),
    )
}


def class_space(name: str) -> ClassSpace:
    """The class space of that name.

    Raises:
        ConfigError: unknown name, with the closest match.
    """
    if name not in CLASS_SPACES:
        raise ConfigError(
            f"Unknown class space {name!r}.{closest(name, CLASS_SPACES)}",
            hint=f"Known: {', '.join(sorted(CLASS_SPACES))}.",
        )
    return CLASS_SPACES[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """One side of a task: a dataset and the splits used from it.

    Attributes:
        dataset: name of a builder in `data_prep`, or `package.module:Builder`.
        train: split trained on (the target's without its labels).
        eval: labelled split evaluated on; empty where there is none.
        variant: builder configuration, e.g. an image size; empty for the only one.
        train_list: which examples of `train`: a list of `data_prep/splits/lists.toml`,
            or a text file of ids; empty for all that are prepared.
    """

    dataset: str
    train: str
    eval: str
    variant: str = ""
    train_list: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is adapted to what, and which number is the headline.

    Attributes:
        name: e.g. `gta5_to_cityscapes`.
        source: labelled domain, or None where only a checkpoint is at hand.
        target: the domain adapted to; its training labels are never read.
        classes: the class space of the network's outputs.
        headline: the subset of `classes.subsets` that is reported first.
        source_free: refuse source streams once the source stage is over.
    """

    name: str
    source: Domain | None
    target: Domain
    classes: ClassSpace
    headline: str
    source_free: bool = True

    def __post_init__(self):
        if self.headline not in self.classes.subsets:
            raise ConfigError(
                f"task.headline {self.headline!r} is no subset of {self.classes.name}."
                f"{closest(self.headline, self.classes.subsets)}",
                hint=f"Known: {', '.join(self.classes.subsets)}.",
            )
