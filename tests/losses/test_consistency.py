import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sfda_jax.losses.consistency import mean_divergence, pixel_divergence
from sfda_jax.losses.distillation import distillation_loss

# Two pixels of two classes: (1/2, 1/2) and (2/3, 1/3) of the student, (1/3, 2/3) and
# (2/3, 1/3) of the teacher.
STUDENT = jnp.asarray([[[[0.0, 0.0], [np.log(2.0), 0.0]]]], jnp.float32)
TEACHER = jnp.asarray([[[[0.0, np.log(2.0)], [np.log(2.0), 0.0]]]], jnp.float32)
KL = 5 / 3 * np.log(2) - np.log(3)
ALL = jnp.ones((1, 1, 2), bool)


def random_maps(seed, batch=4):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, 3, 5, 6)), jnp.float32)


def test_pixels():
    found = pixel_divergence(STUDENT, TEACHER)
    np.testing.assert_allclose(found.ravel(), [KL, 0], rtol=1e-6, atol=1e-7)


def test_the_mean_runs_over_counted_pixels_and_classes():
    np.testing.assert_allclose(
        mean_divergence(STUDENT, TEACHER, ALL), KL / 4, rtol=1e-5
    )
    first = ALL.at[0, 0, 1].set(False)
    np.testing.assert_allclose(
        mean_divergence(STUDENT, TEACHER, first), KL / 2, rtol=1e-5
    )


def test_nothing_counted():
    def loss(logits):
        return mean_divergence(logits, TEACHER, ~ALL)

    value, gradient = jax.value_and_grad(loss)(1e3 * STUDENT)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_pixels_left_out_have_no_gradient():
    seen = ALL.at[0, 0, 0].set(False)
    gradient = jax.grad(lambda x: mean_divergence(x, -TEACHER, seen))(STUDENT)
    np.testing.assert_array_equal(gradient[0, 0, 0], 0)
    assert np.asarray(gradient[0, 0, 1]).all()


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_agreement_costs_nothing(scale):
    logits = scale * random_maps(0)
    counted = jnp.ones(logits.shape[:3], bool)
    value, gradient = jax.value_and_grad(mean_divergence)(logits, logits, counted)
    assert value == 0
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


def test_distillation_forms():
    kl = distillation_loss(STUDENT, TEACHER, form="kl")
    np.testing.assert_allclose(kl, KL / 2, rtol=1e-5)
    # t (log t - s) of both pixels and classes: s in the place of its logarithm
    t = np.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]])
    s = np.array([[1 / 2, 1 / 2], [2 / 3, 1 / 3]])
    expected = (t * (np.log(t) - s)).mean()
    np.testing.assert_allclose(distillation_loss(STUDENT, TEACHER), expected, rtol=1e-6)


def test_taking_probabilities_for_logarithms_rewards_being_sure():
    """Its optimum is the teacher's best class, not the teacher's distribution."""
    teacher = random_maps(1)
    sure = 1e3 * jax.nn.one_hot(teacher.argmax(-1), teacher.shape[-1])
    same = distillation_loss(teacher, teacher)
    assert distillation_loss(sure, teacher) < same <= 0
    assert distillation_loss(teacher, teacher, form="kl") == 0


@pytest.mark.parametrize("form", ["prob_as_log", "kl", "consistency"])
def test_shares_add_up_over_shards(form):
    student, teacher = random_maps(2), random_maps(3)
    rng = np.random.default_rng(4)
    counted = rng.random(student.shape[:3]) < np.array([0, 0.3, 0.7, 1])[:, None, None]
    counted = jnp.asarray(counted)

    def loss(x, t, mask, axis_name=None):
        if form == "consistency":
            return mean_divergence(x, t, mask, axis_name=axis_name)
        return distillation_loss(x, t, form=form, axis_name=axis_name)

    whole, gradient = jax.value_and_grad(loss)(student, teacher, counted)
    share = jax.vmap(
        jax.value_and_grad(lambda *given: loss(*given, axis_name="d")), axis_name="d"
    )
    shares, gradients = share(student[:, None], teacher[:, None], counted[:, None])
    np.testing.assert_allclose(shares.sum(), whole, rtol=1e-5)
    np.testing.assert_allclose(gradients[:, 0], gradient, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("form", ["prob_as_log", "kl"])
def test_low_precision_is_lifted(form):
    low = [x.astype(jnp.bfloat16) for x in (STUDENT, TEACHER)]
    assert distillation_loss(*low, form=form).dtype == jnp.float32
    assert mean_divergence(*low, ALL).dtype == jnp.float32
