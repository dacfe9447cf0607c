"""Stable neighbours of a batch: images whose labels can be relied on (SND, CVPR 2024).

A query picks a stable image for each image of the batch; sure candidates of classes
that the batch holds are pasted into it (stable_st.md, section 3.6).
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt8

from sfda_jax.data import image_ops
from sfda_jax.data.copy_paste import CandidatePaster
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.registry import check_choice
from sfda_jax.types import IGNORE, RandomAccess

QUERIES = ("overlap", "nearest")
_READERS = 8


def low_frequency_style(
    normalised: Float32[np.ndarray, "h w 3"], share: float = 0.125
) -> Float32[np.ndarray, " d"]:
    """Amplitudes of the lowest frequencies of an image, as a unit vector `[d]`.

    Of the mean over RGB; vertical frequencies from 0 upwards only, as released.

    Args:
        normalised: the image as a network takes it (`image_ops.normalise`).
        share: of the rows, and of the columns, of the half spectrum that are kept.
    """
    spectrum = np.abs(np.fft.rfft2(normalised.mean(axis=2), norm="ortho"))
    rows, columns = (max(1, int(n * share)) for n in spectrum.shape)
    style = spectrum[:rows, :columns].ravel().astype(np.float32)
    return style / max(np.linalg.norm(style), np.float32(1e-12))


def stable_styles(
    images: RandomAccess,
    positions: Sequence[int],
    size: tuple[int, int],
    *,
    gamma: float = 1.0,
) -> Float32[np.ndarray, "k d"]:
    """Styles of stable images `[k,d]`, seen as the teacher sees the batch's.

    Args:
        images: the training split.
        positions: of the stable images.
        size: (height, width) of the teacher's view.
        gamma: exponent of its tone curve.
    """

    def style(position: int) -> np.ndarray:
        image = image_ops.resize(images[position]["image"], size, "bilinear")
        return low_frequency_style(image_ops.normalise(image_ops.tone(image, gamma)))

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        return np.stack(list(pool.map(style, positions)))


def overlap_probabilities(
    present: Bool[np.ndarray, "b c"], holds: Bool[np.ndarray, "k c"]
) -> Float64[np.ndarray, "b k"]:
    """Probability of each stable image, the cube of the classes shared; the release.

    Where an image shares no class with any, all that hold a class are as likely.

    Args:
        present: classes of each image of the batch.
        holds: classes of each stable image; one without any is never drawn.
    """
    shared = _shared(present, holds)
    best = shared.max(axis=1, keepdims=True)
    weights = (shared / np.maximum(best, 1)) ** 3
    weights = np.where(best > 0, weights, holds.any(axis=1))
    return weights / weights.sum(axis=1, keepdims=True)


def nearest(
    present: Bool[np.ndarray, "b c"],
    holds: Bool[np.ndarray, "k c"],
    styles: Float32[np.ndarray, "b d"],
    stable_styles: Float32[np.ndarray, "k d"],
) -> Int[np.ndarray, " b"]:
    """For each image, the nearest in style of the stable images that share most.

    The paper queries by style and layout but gives no formula. Here the layout comes
    first: only the stable images that share the most classes compete, and of them the
    one of the largest dot product of styles wins, the first in rank if they tie. Where
    no class is shared, style alone decides. An image that is itself stable may be its
    own neighbour.

    Args:
        present: classes of each image of the batch.
        holds: classes of each stable image; one without any is never chosen.
        styles: `low_frequency_style` of each image of the batch.
        stable_styles: of each stable image.
    """
    shared = _shared(present, holds)
    eligible = (shared == shared.max(axis=1, keepdims=True)) & holds.any(axis=1)
    return np.where(eligible, styles @ stable_styles.T, -np.inf).argmax(axis=1)


def _shared(present: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """How many classes each image of the batch shares with each stable one."""
    return present.astype(np.int64) @ holds.T.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class NeighbourDraws:
    """Everything random about a batch of neighbours; rows may be left out.

    Attributes:
        neighbours: row of each image's neighbour among the stable images.
        seeds: of the mixer's draws for each image, so that they do not depend on what
            happens to the others.
        paste_classes: that the mixer may paste; none, nothing is pasted.
    """

    neighbours: Int[np.ndarray, " b"]
    seeds: Int[np.ndarray, " b"]
    paste_classes: Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StableNeighbours(CandidatePaster):
    """Stable images with labels, one for each image of a batch.

    Gives `images` uint8[B,H,W,3] and `labels` uint8[B,H,W], train ids and 255. Pickles.

    Attributes:
        size: (height, width) of the result, the teacher's view.
        stable: (position, id) of the stable images, in rank order.
        holds: bool[K,C], the classes of each stable image's labels.
        labels: id → labels of a stable image, at any resolution.
        mix_classes: classes to paste; those the batch holds are as likely.
        neighbour: `overlap` draws by shared classes, as released; `nearest` compares
            styles as well, see `nearest`.
        styles: float32[K,D] of the stable images (`stable_styles`), for `nearest`.
        gamma: exponent of a tone curve on the result, 1.0 for none.

    Raises:
        ConfigError: an unknown query, `nearest` without styles.
        DataError: no stable image with a class in its labels.
    """

    size: tuple[int, int]
    stable: Sequence[tuple[int, str]]
    holds: Bool[np.ndarray, "k c"]
    labels: Callable[[str], np.ndarray]
    neighbour: str = "overlap"
    styles: Float32[np.ndarray, "k d"] | None = None
    gamma: float = 1.0
    paste_scale_range: float = 0.2

    def __post_init__(self):
        check_choice("neighbour", self.neighbour, QUERIES)
        if self.neighbour == "nearest" and self.styles is None:
            raise ConfigError(
                "neighbour='nearest' without the styles of the stable images.",
                hint="Pass styles=stable_styles(...), or neighbour='overlap'.",
            )
        if not self.holds.any():
            raise DataError(
                f"None of {len(self.stable)} stable images has a class in its labels.",
                hint="Raise the share of stable images (times the images of the "
                "training split it must reach 1), or begin with a network that "
                "predicts its classes more steadily.",
            )

    def __call__(
        self,
        present: Bool[np.ndarray, "b c"],
        styles: Float32[np.ndarray, "b d"] | None,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """A neighbour for each image of a batch.

        Args:
            present: classes in each image's labels.
            styles: `low_frequency_style` of each; None unless `neighbour` is `nearest`.
            rng: source of all randomness.
        """
        return self.apply(self.draw(present, styles, rng))

    def draw(
        self,
        present: Bool[np.ndarray, "b c"],
        styles: Float32[np.ndarray, "b d"] | None,
        rng: np.random.Generator,
    ) -> NeighbourDraws:
        """The decisions alone, for the batch as a whole; arguments as of a call.

        Raises:
            ConfigError: the query needs styles and there are none.
        """
        if self.neighbour == "overlap":
            rows = overlap_probabilities(present, self.holds)
            neighbours = np.array([rng.choice(len(row), p=row) for row in rows])
        elif styles is None:
            raise ConfigError("neighbour='nearest' without the styles of the batch.")
        else:
            neighbours = nearest(present, self.holds, styles, self.styles)
        anywhere = present.any(axis=0)
        return NeighbourDraws(
            neighbours=neighbours,
            seeds=rng.integers(2**63, size=len(present)),
            paste_classes=[c for c in self.mix_classes if anywhere[c]],
        )

    def apply(self, draws: NeighbourDraws) -> dict[str, np.ndarray]:
        """Reads, resizes and mixes what was drawn."""

        def one(row: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
            return self._sample(row, draws.paste_classes, np.random.default_rng(seed))

        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            made = list(pool.map(one, draws.neighbours.tolist(), draws.seeds.tolist()))
        images, labels = (np.stack(arrays) for arrays in zip(*made, strict=True))
        return {"images": images, "labels": labels}

    def _sample(
        self, row: int, paste_classes: Sequence[int], rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        position, name = self.stable[row]
        image = self.images[position]["image"]
        image = image_ops.resize(image, self.size, "bilinear")
        labels = image_ops.resize(self.labels(name), self.size, "nearest")
        image, pasted = self.paste(image, rng, classes=paste_classes)
        labels = np.where(pasted == IGNORE, labels, pasted)
        return image_ops.tone(image, self.gamma), labels
