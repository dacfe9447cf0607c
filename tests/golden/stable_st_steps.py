"""What the recorded training steps of DT-ST, SND and Stable-ST have in common."""

import jax.numpy as jnp
import numpy as np

from tests.golden.stable_st_networks import nhwc, recorded_task


def recorded_settings(data, hyper):
    """Settings of an online teacher that replays recorded steps, but for the score."""
    images = data["batch0/full_images"]
    return {
        "task": recorded_task(hyper["num_classes"]),
        "batch_size": images.shape[0],
        "full_size": images.shape[2:],
        "crop_size": data["batch0/student_images"].shape[2:],
        "mix_classes": (),
        "ema_decay": hyper["ema"],
        "dynamic": hyper["dynamic"],
        "fixed_interval": hyper["fix_iteration"],
        "query_start": hyper["query_start"],
        "query_step": hyper["query_step"],
        "max_update": hyper["max_update"],
        "threshold_beta": hyper["threshold_beta"],
        "image_dtype": "float32",
    }


def recorded_images(data, t, name):
    """Normalised images of step t."""
    return nhwc(data[f"batch{t}/{name}"].astype(np.float32))


def recorded_integers(data, t, name):
    """Labels or sizes of step t."""
    return jnp.asarray(data[f"batch{t}/{name}"], jnp.int32)


def recorded_target(data, t):
    """The target's part of the batch of step t."""
    return {
        "images": recorded_images(data, t, "student_images"),
        "full_images": recorded_images(data, t, "full_images"),
        "rescale_size": recorded_integers(data, t, "rescale_size"),
        "crop_origin": recorded_integers(data, t, "crop_y1x1"),
        "flip": jnp.asarray(data[f"batch{t}/flip"]),
        "mix_labels": jnp.asarray(data[f"batch{t}/mix_label"]),
    }


def check_rate_and_prior(data, t, state, metrics):
    """Learning rate and running confidences are those recorded of step t."""
    np.testing.assert_allclose(metrics["learning_rate"], data["lr"][t], rtol=1e-6)
    np.testing.assert_allclose(
        state.method.running_confidence, data["running_conf"][t], atol=1e-6, rtol=0
    )


class Updates:
    """What a dynamic teacher is asked, and decides, step by step."""

    def __init__(self):
        self._asked, self._intervals = [], []

    def note(self, dtu):
        """The state of the dynamic update after a step."""
        if dtu.queried:
            self._asked.append((bool(dtu.updated), dtu.mean_old, dtu.mean_new))
        self._intervals += [int(dtu.interval)] * bool(dtu.updated)

    def check(self, data):
        """Intervals and mean scores are those recorded."""
        assert self._intervals == data["update_intervals"].tolist()
        recorded = np.stack([data["mean_old_score"], data["mean_new_score"]], 1)
        asked = self._asked
        # Scores are recorded at every question, or at the updates alone.
        if len(recorded) < len(asked):
            asked = [row for row in asked if row[0]]
        means = np.array([row[1:] for row in asked]).reshape(-1, 2)
        np.testing.assert_allclose(means, recorded, rtol=1e-4)
