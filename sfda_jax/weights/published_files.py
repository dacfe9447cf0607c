"""The checkpoint files that the systems' authors published, as far as is known.

None comes with this package. A hash is given only where its source states it.
"""

import dataclasses
import fnmatch
import hashlib
import pathlib

from sfda_jax.errors import CheckpointError

UNKNOWN = "unknown"
_NO_LICENCE = "none stated"
_NVIDIA = "NVIDIA's, non-commercial"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file, or a family of files whose names differ in one part.

    Attributes:
        name: file name; `*` where a family's names differ.
        network: of `networks.NETWORKS`; what it starts where it is a backbone alone.
        layout: how it names its arrays.
        num_classes: of its classifier.
        holds: what was trained on what.
        licence: as its authors state it.
        sha256: how the hash starts; empty where nobody states it.
        backbone_only: it has no classifier of ours (ImageNet): `imagenet:PATH`.
    """

    name: str
    network: str
    layout: str
    num_classes: int
    holds: str
    licence: str = UNKNOWN
    sha256: str = ""
    backbone_only: bool = False


FILES = (
    PublishedFile(
        name="G2C_model_iter020000.pth",
        network="deeplab_v2",
        layout="deeplab_v2",
        num_classes=19,
        holds="Stable-ST: GTA5, generalised by DSU; 43.27 mIoU on Cityscapes",
        licence=_NO_LICENCE,
    ),
    PublishedFile(
        name="S2C_model_iter020000.pth",
        network="deeplab_v2",
        layout="deeplab_v2",
        num_classes=16,
        holds="Stable-ST: SYNTHIA; 32.10 mIoU16 on Cityscapes",
        licence=_NO_LICENCE,
    ),
    PublishedFile(
        name="[GM]_*_at_warmup_*.pth",
        network="deeplab_v2_iast",
        layout="deeplab_v2_iast",
        num_classes=19,
        holds="IAST: adversarial warm-up, generator G and model M",
    ),
    PublishedFile(
        name="gta5_warmup_model.pkl",
        network="deeplab_v3_plus",
        layout="deeplab_v3_plus",
        num_classes=19,
        holds="BiSMAP: GTA5, weighted warm-up",
    ),
    PublishedFile(
        name="gta5_dill_model.pkl",
        network="deeplab_v3_plus",
        layout="deeplab_v3_plus",
        num_classes=19,
        holds="BiSMAP: GTA5 → Cityscapes, second distillation",
    ),
    PublishedFile(
        name="r152_1x_sk1.pth",
        network="simclr_r152_sk1",
        layout="simclr",
        num_classes=1000,
        holds="SimCLRv2: ImageNet; BiSMAP's feature extractor",
    ),
    PublishedFile(
        name="r101_1x_sk0.pth",
        network="simclr_r101_sk0",
        layout="simclr_torchvision",
        num_classes=1000,
        holds="SimCLRv2: ImageNet; where BiSMAP's students start",
    ),
    PublishedFile(
        name="gta_rna-a1_cls19_s8_ep-0000.params",
        network="wide_resnet38",
        layout="wide_resnet38",
        num_classes=19,
        holds="CBST: GTA5",
    ),
    PublishedFile(
        name="synthia_rna-a1_cls16_s8_ep-0000.params",
        network="wide_resnet38",
        layout="wide_resnet38",
        num_classes=16,
        holds="CBST: SYNTHIA",
    ),
    PublishedFile(
        name="ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
        network="wide_resnet38",
        layout="wide_resnet38",
        num_classes=1000,
        holds="CBST: ImageNet",
        backbone_only=True,
    ),
    PublishedFile(
        name="resnet101-5d3b4d8f.pth",
        network="deeplab_v2",
        layout="torchvision",
        num_classes=1000,
        holds="torchvision: ImageNet",
        # torchvision names its files after their hashes.
        sha256="5d3b4d8f",
        backbone_only=True,
    ),
    *(
        PublishedFile(
            name=f"mit_b{size}.pth",
            network=f"segformer_b{size}",
            layout="segformer",
            num_classes=1000,
            holds="SegFormer: ImageNet",
            licence=_NVIDIA,
            backbone_only=True,
        )
        for size in range(6)
    ),
)


def known_file(path: pathlib.Path) -> PublishedFile | None:
    """What is known about a file of this name."""
    for file in FILES:
        if fnmatch.fnmatchcase(path.name, file.name):
            return file
    return None


def check_hash(path: pathlib.Path) -> None:
    """Refuses a file that has a published name but not the published content.

    Raises:
        CheckpointError: the hash differs from the one that is stated.
    """
    known = known_file(path)
    if known is None or not known.sha256 or not path.is_file():
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(known.sha256):
        raise CheckpointError(
            f"{path} is not the published file of this name: its SHA-256 starts with "
            f"{found[:8]}, the published one with {known.sha256}.",
            hint="It is truncated or altered: download it again. If it is meant to "
            "differ, give it another name.",
        )
