"""The base of all dataset builders: variants, listing, encoding, information."""

import io
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data_prep.listing import Listing, Pair
from data_prep.reading import (
    encoded_label,
    fault,
    image_bytes,
    label_values,
    resized_image,
    resized_label,
)
from sfda_jax.data.label_maps import LABEL_MAPS, apply_label_map
from sfda_jax.errors import DataError
from sfda_jax.registry import closest
from sfda_jax.tasks import ClassSpace, class_space
from sfda_jax.types import IGNORE

_SIZE = re.compile(r"(\d+)x(\d+)")


class SegmentationConfig(tfds.core.BuilderConfig):
    """A variant: `SPACE[-OPTION…][-HEIGHTxWIDTH]`, every part optional.

    Attributes:
        space: class space of the stored labels.
        options: words that the dataset gives a meaning to.
        size: (height, width) that images and labels are stored at; None keeps the
            published bytes.
    """

    def __init__(
        self,
        *,
        space: str,
        options: tuple[str, ...] = (),
        size: tuple[int, int] | None = None,
    ):
        parts = [space, *options, *([f"{size[0]}x{size[1]}"] if size else [])]
        super().__init__(name="-".join(parts))
        self.space = space
        self.options = options
        self.size = size


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of our builders: image bytes as published, labels as PNGs of train ids.

    A subclass sets the attributes below and defines `listing`; the other class
    methods are overridden where a dataset differs.

    Attributes:
        dataset: its registry name.
        spaces: class spaces that its labels map to, the default first.
        options: words that its variants know beside space and size.
        numbers: words that take a number, e.g. `tile` in `tile512`.
        published: split → number of examples in the complete download.
        groups: split → group → number of examples, where that is published too.
        image_sizes: (height, width) of the published images; empty for any.
        absent_classes: names of classes that no published label holds.
        label_mend: where right labels are to be had, said when a file is none.
        reads_files: whether there are files to read at all.
        MANUAL_DOWNLOAD_INSTRUCTIONS: the layout that it reads.
    """

    VERSION = tfds.core.Version("1.1.0")
    code_path = (
        None  # else TFDS looks for download checksums with an undeclared package
    )
    dataset: str
    spaces: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    published: Mapping[str, int] = {}
    groups: Mapping[str, Mapping[str, int]] = {}
    image_sizes: tuple[tuple[int, int], ...] = ()
    absent_classes: tuple[str, ...] = ()
    label_mend: ClassVar[str] = "Write class values, not colours."
    reads_files: ClassVar[bool] = True

    @classmethod
    def listing(cls, root: pathlib.Path, config: SegmentationConfig) -> Listing:
        """The examples below a folder; opens no image.

        Raises:
            DataError: the folder has another layout, or holds nothing.
        """
        raise NotImplementedError

    @classmethod
    def group_of(cls, example_id: str) -> str:
        """The group, e.g. the city, of an example of a split in `groups`."""
        return example_id.split("_")[0]

    @classmethod
    def label_values(cls, path: pathlib.Path) -> np.ndarray:
        """The published class values `[H,W]` of a label file.

        Raises:
            DataError: missing, truncated, or not in the published encoding.
        """
        return label_values(path, dataset=cls.dataset, mend=cls.label_mend)

    @classmethod
    def label_table(cls, pair: Pair, config: SegmentationConfig) -> np.ndarray:
        """Published value → train id, uint8[256], for the label file of a pair."""
        return LABEL_MAPS[cls.dataset, config.space]

    @classmethod
    def train_ids(cls, pair: Pair, config: SegmentationConfig) -> np.ndarray | None:
        """The train ids `uint8[H,W]` of the whole label file; None without one.

        Raises:
            DataError: an unreadable file, or a value outside the dataset's map.
        """
        if pair.label is None:
            return None
        return apply_label_map(
            cls.label_values(pair.label),
            cls.label_table(pair, config),
            path=pair.label,
            dataset=cls.dataset,
        )

    @classmethod
    def encode(cls, pair: Pair, config: SegmentationConfig) -> dict:
        """The features of one example, ready to be serialised.

        Raises:
            DataError: a file does not decode, or image and label differ in size.
        """
        data, size = image_bytes(pair.image, dataset=cls.dataset)
        train_ids = cls.train_ids(pair, config)
        if train_ids is None:
            train_ids = np.full(size, IGNORE, np.uint8)
        check_sizes(pair, train_ids.shape, size, dataset=cls.dataset)
        if pair.box or config.size:
            data = resized_image(data, pair.box, config.size)
            train_ids = resized_label(train_ids, pair.box, config.size)
        return {
            "image": io.BytesIO(data),
            "label": encoded_label(train_ids),
            "id": pair.id,
        }

    @classmethod
    def locate(
        cls, manual_dir: pathlib.Path | None, variant: str
    ) -> tuple[SegmentationConfig, pathlib.Path | None]:
        """The configuration of a variant, and the folder that it reads.

        A folder that holds a subfolder of the dataset's name stands for that subfolder,
        so one `manual_dir` serves all datasets.

        Raises:
            DataError: unknown class space or option, with the closest match.
        """
        space, options, size = cls.spaces[0], [], None
        for part in filter(None, variant.split("-")):
            if match := _SIZE.fullmatch(part):
                size = (int(match[1]), int(match[2]))
            elif part in cls.spaces:
                space = part
            elif part in cls.options or _word(part) in cls.numbers:
                options.append(part)
            else:
                numbers = [f"{word}NUMBER" for word in cls.numbers]
                known = [*cls.spaces, *cls.options, *numbers]
                raise DataError(
                    f"Dataset {cls.dataset!r} has no variant {variant!r}: unknown "
                    f"{part!r}.{closest(part, known)}",
                    hint=f"Known: {', '.join(known)}, HEIGHTxWIDTH, joined by '-'.",
                )
        chosen = tuple(sorted(set(options)))  # one name, so one prepared set
        config = SegmentationConfig(space=space, options=chosen, size=size)
        if manual_dir is not None and (manual_dir / cls.dataset).is_dir():
            manual_dir = manual_dir / cls.dataset
        return config, manual_dir

    @classmethod
    def classes(cls, config: SegmentationConfig) -> ClassSpace:
        """The class space that a configuration's labels are stored in."""
        return class_space(config.space)

    def _info(self) -> tfds.core.DatasetInfo:
        classes = self.classes(self.builder_config)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.MANUAL_DOWNLOAD_INSTRUCTIONS,
            disable_shuffling=True,  # file order; streams shuffle
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Image(shape=(None, None, 1)),
                    "id": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(
                classes={
                    "name": classes.name,
                    "names": list(classes.names),
                    "palette": classes.palette.tolist(),
                    "subsets": {k: list(v) for k, v in classes.subsets.items()},
                },
                unlabelled_splits=[],
                left_out={},
                content="",
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        root = pathlib.Path(dl_manager.manual_dir)
        listing = self.listing(root, self.builder_config)
        return {
            name: self._generate_examples(pairs)
            for name, pairs in listing.splits.items()
        }

    def _generate_examples(self, pairs: tuple[Pair, ...]) -> Iterator[tuple[str, dict]]:
        for pair in pairs:
            yield pair.id, self.encode(pair, self.builder_config)


def _word(part: str) -> str:
    """`tile` of `tile512`; empty where no number ends it."""
    return part.rstrip("0123456789") if part[-1].isdigit() else ""


def check_sizes(
    pair: Pair, label: tuple[int, int], image: tuple[int, int], *, dataset: str
) -> None:
    """Refuses a label of another size than its image.

    Args:
        pair: the files.
        label: (height, width).
        image: (height, width).
        dataset: for the error.

    Raises:
        DataError: names both files and both sizes.
    """
    if label != image:
        raise fault(
            f"{pair.label} is {label[1]}×{label[0]}, expected {image[1]}×{image[0]} "
            f"like its image {pair.image}.",
            dataset=dataset,
            mend="Replace or remove the pair.",
        )
