"""BiSMAP's source weight maps: class boost, pooling, distances, 8-bit maps."""

import jax.numpy as jnp
import numpy as np

from sfda_jax.data.label_maps import LABEL_MAPS, apply_label_map
from sfda_jax.pseudo_labels import transferability
from sfda_jax.tasks import CLASS_SPACES
from tests.golden.published_weights import nchw, nhwc

SYSTEM = "bismap"
_CLASSES = CLASS_SPACES["cityscapes19"]


def check_boost(path):
    case = np.load(path)
    for source, key in (("gta5", "gta"), ("synthia", "synthia")):
        expected = case[f"boost_{key}"]
        found = transferability.class_boost(case[f"entropy_{key}"])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        recorded = tuple(case[f"entropy_{key}"])
        if recorded == transferability.CLASS_ENTROPY[source]:
            preset = transferability.published_boost(source, _CLASSES)
            np.testing.assert_allclose(preset, expected, rtol=0, atol=1e-12)


def check_pool(path):
    case = np.load(path)
    found = nchw(transferability.pool_columns(nhwc(case["feat"])))
    np.testing.assert_allclose(found, case["pooled"], rtol=0, atol=1e-6)


def check_maps(path):
    case = np.load(path)
    distances = np.asarray(
        transferability.nearest_distances(
            nhwc(case["feats"]), jnp.asarray(case["centers"])
        )
    )
    means = transferability.mean_distances(distances)
    weights = transferability.cell_weights(distances, means)
    for found, key in (
        (distances, "min_distance"),
        (means, "running_mean"),
        (weights, "weight"),
    ):
        np.testing.assert_allclose(found, case[key], rtol=1e-5, atol=1e-5)
    dataset = "synthia" if case["synthia"] else "gta5"
    table = LABEL_MAPS[dataset, _CLASSES.name]
    for cells, raw, expected in zip(
        weights, case["raw_labels"], case["map_u8"], strict=True
    ):
        found = transferability.weight_map(
            cells,
            apply_label_map(raw, table, path=path, dataset=dataset),
            case["class_boost"],
            size=tuple(case["out_hw"].tolist()),
        )
        np.testing.assert_array_equal(found, expected)


CHECKERS = {
    "stm_class_boost*.npz": check_boost,
    "stm_feature_pool*.npz": check_pool,
    "stm_maps_*.npz": check_maps,
}
