"""DAFormer's class probabilities, as ATP's framework computes them."""

import numpy as np

from sfda_jax.data.sampling import temperature_probabilities

SYSTEM = "atp"


def check_class_probabilities(path):
    case = np.load(path)
    totals = case["pixel_counts"].sum(0)
    keys = [key for key in case.files if key.startswith("probs_T")]
    assert keys
    for key in keys:
        classes, probs = temperature_probabilities(
            totals, float(key.removeprefix("probs_T"))
        )
        np.testing.assert_array_equal(classes, case["classes"])
        np.testing.assert_allclose(probs, case[key], rtol=1e-5)


CHECKERS = {"rare_class_sampling*.npz": check_class_probabilities}
