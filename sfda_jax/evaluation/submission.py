"""Predictions as the Cityscapes benchmark wants them: label ids, one file an image."""

import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfda_jax.data.label_maps import LABEL_MAPS
from sfda_jax.errors import ConfigError, DataError
from sfda_jax.tasks import ClassSpace


def label_ids(classes: ClassSpace) -> UInt8[np.ndarray, " c"]:
    """The Cityscapes label id (0–33) of each train id.

    Raises:
        ConfigError: a class space whose classes are not Cityscapes'.
    """
    table = LABEL_MAPS.get(("cityscapes", classes.name))
    if table is None:
        known = [space for dataset, space in LABEL_MAPS if dataset == "cityscapes"]
        raise ConfigError(
            f"--submission writes Cityscapes label ids, which the classes of "
            f"{classes.name!r} do not have.",
            hint=f"It serves {', '.join(known)}; `predict` writes train ids for all.",
        )
    return np.array(
        [np.flatnonzero(table == i)[0] for i in range(classes.num_classes)], np.uint8
    )


class SubmissionWriter:
    """Writes `out/<split>/[<city>/]<id>_pred.png`, 8-bit grey PNGs of label ids.

    `<city>`, the first word of a frame, is a folder of Cityscapes' alone. Called with
    an example's id and its train ids `[h,w]`.

    Args:
        out: the submission's folder.
        dataset: whose frames they are.
        split: its split.
        classes: of the predictions.

    Raises:
        ConfigError: as `label_ids`.
    """

    def __init__(
        self, out: pathlib.Path, dataset: str, split: str, classes: ClassSpace
    ):
        self._folder = out / split
        self._by_city = dataset == "cityscapes"
        self._label_ids = label_ids(classes)

    def path(self, example_id: str) -> pathlib.Path:
        """The file of one example."""
        city = example_id.partition("_")[0] if self._by_city else ""
        return self._folder / city / f"{example_id}_pred.png"

    def __call__(self, example_id: str, train_ids: UInt8[np.ndarray, "h w"]) -> None:
        """Writes one prediction.

        Raises:
            DataError: the file cannot be written.
        """
        path = self.path(example_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self._label_ids[train_ids]).save(path)
        except OSError as error:
            raise DataError(
                f"Cannot write {path}: {error.strerror or error}.",
                hint="Check the folder's permissions and free space.",
            ) from error
