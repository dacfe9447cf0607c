"""Speed and memory of the input pipeline, on generated images of published size.

Reading and decoding are the real ones: PNG files are prepared as a dataset, and every
stage's streams read it with the stage's own augmentation. Only networks are left out:
the generated labels stand in for their predictions.
"""

import dataclasses
import gc
import logging
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import psutil

from sfda_jax import registry
from sfda_jax.data.access import DataAccess
from sfda_jax.data.scenes import render
from sfda_jax.data.sources import open_split
from sfda_jax.data.streams import open_stream
from sfda_jax.tasks import ClassSpace, Domain
from sfda_jax.train.lookups import split_streams
from sfda_jax.train.optim import make_optimizer
from sfda_jax.train.parallel import make_parallel
from sfda_jax.train.recipe import Recipe
from sfda_jax.train.round_context import RoundContext, make_round_context
from sfda_jax.train.states import init_network, stage_key, start_state
from sfda_jax.types import IGNORE, RandomAccess, StreamSpec

_log = logging.getLogger(__name__)

_SCENES = 8  # drawn anew; all images are one of them, shifted sideways
_DECODED = 100  # images of the decode-only loop
_WARM_UP = 10  # batches before the clock starts: workers start, buffers fill
_BEYOND = 32  # batches after it stops, so that all readers are at work until then
_STRIDE = 4  # of label maps that stand in for a network's predictions
_DOMAIN = Domain(dataset="folder", train="train", eval="val")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Readers:
    """What reads a stream: threads of this process, or other processes."""

    name: str
    threads: int = 1
    workers: int = 0

    @property
    def count(self) -> int:
        return self.workers or self.threads


_READERS = (
    _Readers(name="1 thread", threads=1),
    _Readers(name="2 threads", threads=2),
    _Readers(name="1 worker", workers=1),
    _Readers(name="2 workers", workers=2),
)


def bench_input(recipe: Recipe, *, images: int = 200) -> list[dict[str, Any]]:
    """One row for decoding alone, and one per stream and kind of reader.

    Args:
        recipe: any; its datasets are replaced by `images` PNG files of
            `data.generated_size`.
        images: how many files, and how many examples each stream reads.

    Returns:
        Rows of: stream, readers, images_per_second, share_of_limit (of decoding alone
        on as many cores as there are readers), cpu_ms_per_image (of all processes),
        rss_first_mib and rss_last_mib (resident memory of all processes, mean over the
        first and the last quarter of the batches), megabytes_per_image.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        size = recipe.data.generated_size
        _log.info("Drawing %d images of %d×%d.", images, size[1], size[0])
        _write_set(folder / "files", size, images, recipe.task.classes)
        recipe = _on_folder(recipe, folder)
        rows = [_decode_alone(folder / "files")]
        limit = rows[0]["images_per_second"]
        for index, stage in enumerate(recipe.stages):
            if not stage.rounds[0].num_steps:
                continue
            access, streams = _streams(recipe, index, folder, images)
            for name, spec in streams.items():
                for readers in _READERS:
                    row = _read(access.train(spec.domain), spec, readers, images)
                    share = row["images_per_second"] / readers.count / limit
                    row["share_of_limit"] = round(share, 3)
                    rows.append({"stream": f"{stage.name}/{name}"} | row)
    return rows


def _write_set(
    folder: pathlib.Path, size: tuple[int, int], count: int, classes: ClassSpace
) -> None:
    """A dataset in the layout of `folder`: images with camera noise, and labels."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
    lines = [f"{i} {name}" for i, name in enumerate(classes.names)]
    (folder / "classes.txt").write_text("\n".join(lines))
    scenes = [
        render(i, look="real", seed=0, size=size) for i in range(min(count, _SCENES))
    ]
    rng = np.random.default_rng(0)
    for i in range(count + 1):
        split = "train" if i < count else "val"
        image, label = scenes[i % len(scenes)]
        label = np.where(label == IGNORE, label, label % np.uint8(classes.num_classes))
        shift = int(rng.integers(size[1]))
        for kind, array in (("images", image[..., ::-1]), ("labels", label)):
            cv2.imwrite(
                str(folder / split / kind / f"{i:05d}.png"),
                np.roll(array, shift, axis=1),
                [cv2.IMWRITE_PNG_COMPRESSION, 3],
            )


def _on_folder(recipe: Recipe, folder: pathlib.Path) -> Recipe:
    """The recipe on the generated set, with a network that takes no room."""
    model = registry.resolve("models", "tiny")(
        num_classes=recipe.task.classes.num_classes
    )
    task = dataclasses.replace(
        recipe.task,
        source=recipe.task.source and _DOMAIN,
        target=_DOMAIN,
    )
    stages = tuple(
        dataclasses.replace(
            stage, method=dataclasses.replace(stage.method, model=model, task=task)
        )
        for stage in recipe.stages
    )
    return dataclasses.replace(recipe, model=model, task=task, stages=stages)


def _streams(
    recipe: Recipe, index: int, folder: pathlib.Path, images: int
) -> tuple[DataAccess, dict[str, StreamSpec]]:
    """A stage's streams, begun on the generated set."""
    access = DataAccess(
        task=recipe.task,
        data_dir=str(folder / "prepared"),
        manual_dirs={_DOMAIN.dataset: str(folder / "files")},
    )
    method, settings = recipe.stages[index].at_round(0)
    ctx = make_round_context(
        folder,
        recipe,
        stage=index,
        round_=0,
        access=access,
        parallel=make_parallel("jit", 1),
        trial=True,
    )
    fields = {f.name: getattr(ctx, f.name) for f in dataclasses.fields(ctx)}
    fields["num_steps"] = max(images, ctx.num_steps)
    ctx = _LabelContext(**fields)
    state = start_state(
        method, make_optimizer(settings), init_network(recipe), stage_key(recipe, index)
    )
    _, streams = method.begin_round(ctx, state)
    return access, split_streams(streams)[0]


class _LabelContext(RoundContext):
    """Gives true labels where a network's predictions are asked for."""

    def forward(
        self, fn, variables, *, domain="target", **_
    ) -> Iterator[tuple[list[str], tuple[np.ndarray, np.ndarray]]]:
        """(ids, (labels, confidence)), as `pseudo_labels.candidates` reads them.

        Each image has one confidence, so that objects stay whole.
        """
        source = open_split(
            _DOMAIN.dataset,
            _DOMAIN.train,
            labelled=True,
            pictured=False,
            data_dir=self.access.data_dir,
            manual_dir=self.access.manual_dirs[_DOMAIN.dataset],
        )
        for index in range(len(source)):
            record = source[index]
            label = np.ascontiguousarray(record["label"][None, ::_STRIDE, ::_STRIDE])
            sure = np.full(label.shape, self.rng.random(), np.float32)
            yield [record["id"]], (label, sure)


def _decode_alone(folder: pathlib.Path) -> dict[str, Any]:
    """What one core decodes: the limit of any pipeline that reads these files."""
    files = sorted((folder / "train" / "images").glob("*.png"))
    encoded = [np.fromfile(path, np.uint8) for path in files[:_DECODED]]
    started, cpu = time.perf_counter(), time.process_time()
    for data in encoded:
        cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    megabytes = np.mean([path.stat().st_size for path in files]) / 1e6
    return {
        "stream": "decode alone",
        "readers": "1 core",
        "images_per_second": round(len(encoded) / seconds, 2),
        "cpu_ms_per_image": round(1000 * cpu / len(encoded), 1),
        "megabytes_per_image": round(float(megabytes), 2),
    }


def _read(
    source: RandomAccess, spec: StreamSpec, readers: _Readers, images: int
) -> dict[str, Any]:
    """Rate and memory of one stream, as fast as it can be read."""
    steps = max(images // spec.batch_size, 4)
    warm_up = min(_WARM_UP, steps // 2)
    gc.collect()
    memory = []
    with open_stream(
        source,
        spec,
        seed=(0,),
        num_steps=steps + _BEYOND,
        workers=readers.workers,
        threads=readers.threads,
    ) as stream:
        for _ in range(warm_up):
            next(stream)
        started, cpu = time.perf_counter(), _cpu_seconds()
        for _ in range(steps - warm_up):
            next(stream)
            memory.append(_resident_mib())
        seconds, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
    count, quarter = len(memory) * spec.batch_size, -(-len(memory) // 4)
    return {
        "readers": readers.name,
        "images_per_second": round(count / seconds, 2),
        "cpu_ms_per_image": round(1000 * cpu / count, 1),
        "rss_first_mib": round(float(np.mean(memory[:quarter]))),
        "rss_last_mib": round(float(np.mean(memory[-quarter:]))),
    }


def _processes() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _cpu_seconds() -> float:
    times = [process.cpu_times() for process in _processes()]
    return sum(t.user + t.system for t in times)


def _resident_mib() -> float:
    return sum(process.memory_info().rss for process in _processes()) / 2**20
