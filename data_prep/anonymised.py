"""What ACDC and Dark Zurich share: `rgb_anon/` and `gt/`, a folder each recording."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Literal

from data_prep.builder import SegmentationBuilder
from data_prep.listing import Listing, by_id, paired, sorted_files, unlabelled, unzipped
from data_prep.reading import fault
from sfda_jax.data.label_maps import LABEL_MAPS

_LABEL_IDS, _TRAIN_IDS = "_gt_labelIds", "_gt_labelTrainIds"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Where one split lies.

    Attributes:
        folder: its path below `rgb_anon`, and below `gt` where it has labels.
        ending: what the names of its images end with.
        labels: `optional` is all or none; `withheld` is none, whatever is there.
    """

    folder: str
    ending: str = "_rgb_anon"
    labels: Literal["needed", "optional", "withheld"] = "withheld"


class AnonymisedFrames(SegmentationBuilder, skip_registration=True):
    """Base of both builders; the splits are those of `parts` whose images are there.

    Ids are `GOPR0351_frame_000159`. Of each frame's label files the train ids are read,
    or the label ids where those are missing; `invIds` (regions that nobody can
    recognise) stays untouched, as in the standard mIoU.

    Attributes:
        parts: split → where it lies.
    """

    spaces = ("cityscapes19", "synthia16", "crosscity13")
    image_sizes = ((1080, 1920),)
    label_mend = (
        "Use *_gt_labelTrainIds.png or *_gt_labelIds.png as published, not the "
        "*_labelColor.png beside it."
    )
    parts: Mapping[str, Part]

    @classmethod
    def listing(cls, root, config):
        """The splits that are there, from one tree or from archives side by side."""
        image_roots, label_roots = unzipped(root, "rgb_anon"), unzipped(root, "gt")
        splits, findings, without = {}, [], []
        for split, part in cls.parts.items():
            images = _images(cls.dataset, image_roots, part)
            if not images:
                continue
            labels = _labels(cls.dataset, label_roots, part)
            if labels or part.labels == "needed":
                splits[split], alone = paired(images, labels)
                findings += alone
            else:
                splits[split] = unlabelled(images)
                without.append(split)
        if not splits:
            folders = ", ".join(part.folder for part in cls.parts.values())
            raise fault(
                f"{root} holds no rgb_anon/ with one of {folders}.",
                dataset=cls.dataset,
                mend="Extract the archives there.",
            )
        return Listing(
            splits=splits, findings=tuple(findings), unlabelled=tuple(without)
        )

    @classmethod
    def label_table(cls, pair, config):
        """That of the train ids, or of the label ids."""
        made = pair.label.stem.endswith(_TRAIN_IDS)
        return LABEL_MAPS["train_ids" if made else "cityscapes", config.space]


def _images(
    dataset: str, roots: list[pathlib.Path], part: Part
) -> dict[str, pathlib.Path]:
    """Frame → image; empty where the split is not there."""
    files = [
        file
        for root in roots
        if (root / part.folder).is_dir()
        for file in sorted_files(
            root / part.folder, dataset=dataset, pattern=f"*/*{part.ending}.png"
        )
    ]
    return by_id(files, lambda f: f.stem.removesuffix(part.ending), dataset=dataset)


def _labels(
    dataset: str, roots: list[pathlib.Path], part: Part
) -> dict[str, pathlib.Path]:
    """Frame → label file; empty where the split has none.

    Raises:
        DataError: none where the split needs them.
    """
    found: dict[str, pathlib.Path] = {}
    if part.labels == "withheld":
        return found
    for ending in (_LABEL_IDS, _TRAIN_IDS):  # the later one wins
        pattern = f"{part.folder}/*/*{ending}.png"
        files = [file for root in roots for file in sorted(root.glob(pattern))]
        found |= by_id(
            files, lambda f, e=ending: f.stem.removesuffix(e), dataset=dataset
        )
    if not found and part.labels == "needed":
        where = " and ".join(map(str, roots)) or "gt/"
        raise fault(
            f"{where} holds no {part.folder}/*/*{_TRAIN_IDS}.png or *{_LABEL_IDS}.png.",
            dataset=dataset,
            mend="Extract the labels too.",
        )
    return found
