"""`python -m data_prep NAME --manual_dir=FOLDER`: prepares one dataset."""

import argparse
import logging
import sys

from sfda_jax.data.preparation import prepare
from sfda_jax.data.sources import fingerprint
from sfda_jax.errors import SfdaError
from sfda_jax.registry import list_names


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 when the dataset is ready, 1 with a message otherwise."""
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=__doc__)
    parser.add_argument("dataset", help=", ".join(list_names("datasets")))
    parser.add_argument("--manual_dir", help="folder of the files as published")
    parser.add_argument("--data_dir", help="where prepared datasets are kept")
    parser.add_argument("--variant", default="", help="class space, or image size")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS narrates every step
    try:
        builder = prepare(
            args.dataset,
            data_dir=args.data_dir,
            manual_dir=args.manual_dir,
            variant=args.variant,
        )
    except SfdaError as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    splits = ", ".join(f"{k} {v.num_examples}" for k, v in builder.info.splits.items())
    logging.info("%s: %s; %s", args.dataset, splits, fingerprint(builder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
