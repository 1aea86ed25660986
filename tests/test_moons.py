"""The two moons, and the limit that no classifier of them gets below."""

import numpy as np
import pytest

from common.data import bayes_limit, half_circles, moons


def test_the_half_circles_run_where_they_should():
    upper, lower = half_circles(np.array([0, np.pi / 2, np.pi]))
    np.testing.assert_allclose(upper, [[1, 0], [0, 1], [-1, 0]], atol=1e-15)
    np.testing.assert_allclose(lower, [[0, 0.5], [1, -0.5], [2, 0.5]], atol=1e-15)


def test_moons_without_noise_lie_on_the_half_circles():
    data = moons(20_000, 20_000, noise=0, seed=1)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        x = (x + 1) / 2 * [3, 1.5] + [-1, -0.5]  # from [-1, 1] back to where the half circles touch
        upper, lower = x[y == 0], x[y == 1] - [1, 0.5]
        for moon, side in ((upper, 1), (lower, -1)):
            np.testing.assert_allclose(np.linalg.norm(moon, axis=1), 1, atol=1e-5)
            assert (side * moon[:, 1] > -1e-5).all()
            angles = np.arctan2(side * moon[:, 1], moon[:, 0])
            quarters = np.histogram(angles, 4, (0, np.pi))[0] / len(moon)
            np.testing.assert_allclose(quarters, 0.25, atol=0.02)  # five standard deviations


def test_the_noise_is_measured_where_a_moon_has_radius_one():
    data = moons(100_000, 2, noise=0.3)
    upper, lower = (data.x_train[data.y_train == label] for label in (0, 1))
    apart = np.array([1, 0.5 - 4 / np.pi])  # between the centres of mass, that of half a circle being 2/π above it
    scale = (lower.mean(axis=0) - upper.mean(axis=0)) / apart
    variance = np.array([1 / 2, 1 / 2 - 4 / np.pi**2])  # of cos and sin over half a circle
    for moon in (upper, lower):
        np.testing.assert_allclose(moon.var(axis=0) / scale**2 - variance, 0.3**2, atol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_moons_are_scaled_by_the_train_split(seed):
    data = moons(100, 5000, 0.08, seed)
    assert data.x_train.shape == (100, 2)
    assert data.x_test.shape == (5000, 2)
    np.testing.assert_allclose(data.x_train.min(axis=0), -1, rtol=1e-12)
    np.testing.assert_allclose(data.x_train.max(axis=0), 1, rtol=1e-12)
    assert (data.x_test.min(axis=0) < -1).all()
    assert (data.x_test.max(axis=0) > 1).all()


@pytest.mark.parametrize("count", [200, 201])
def test_both_moons_have_the_same_number_of_points(count):
    data = moons(count, count)
    assert np.bincount(data.y_train).tolist() == np.bincount(data.y_test).tolist() == [count - count // 2, count // 2]


def standardized(x):
    return (x - x.mean(axis=0)) / x.std(axis=0)


def test_the_splits_of_the_moons_come_from_streams_of_their_own():
    data, longer, wider = moons(300, 300, seed=1), moons(400, 300, seed=1), moons(300, 400, seed=1)
    assert np.abs(standardized(data.x_train) - standardized(data.x_test)).max() > 1
    np.testing.assert_allclose(standardized(longer.x_test), standardized(data.x_test), rtol=1e-9)
    assert np.array_equal(wider.x_train, data.x_train)
    assert not np.isin(moons(300, 300, seed=2).x_train, data.x_train).all(axis=1).any()


# The limit that no classifier of the moons gets below


def arcs(angle):
    """The upper and the lower half circle, [2 moons, 2 coordinates, ...]."""
    return np.array([[np.cos(angle), np.sin(angle)], [1 - np.cos(angle), 0.5 - np.sin(angle)]])


def posterior(x, noise):
    """The probability of the upper moon at points x [2, N], by Bayes' theorem; densities by the trapezoidal rule."""
    angle = np.linspace(0, np.pi, 401)
    weights = np.where((angle == 0) | (angle == np.pi), 0.5, 1)
    squares = [((x[:, :, None] - arc[:, None]) ** 2).sum(axis=0) for arc in arcs(angle)]
    upper, lower = (np.exp(-square / (2 * noise**2)) @ weights for square in squares)
    return upper / (upper + lower)


@pytest.mark.parametrize("noise", [0.2, 0.3, 1.0])
def test_the_bayes_limit_of_the_loss_is_the_integral_over_a_moon_and_its_noise(noise):
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)  # of a standard normal distribution
    centres = arcs((np.arange(200) + 0.5) * np.pi / 200)[0]  # by symmetry the other moon has the same loss
    across, up = (noise * grid.reshape(1, -1) for grid in np.meshgrid(nodes, nodes))
    x = np.stack([centres[0][:, None] + across, centres[1][:, None] + up])  # [2, 200, 100]
    losses = -np.log(posterior(x.reshape(2, -1), noise)).reshape(200, -1)
    expected = (losses @ np.outer(weights, weights).reshape(-1) / (2 * np.pi)).mean()
    assert bayes_limit(noise)[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("noise", [0.15, 0.3, 1.0])
def test_the_bayes_limit_is_what_the_best_classifier_gets_on_random_points(noise):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 20_000)
    x = np.where(y == 0, *arcs(rng.uniform(0, np.pi, y.size))) + rng.normal(0, noise, (2, y.size))
    p = np.abs(posterior(x, noise) - y)  # of the true class
    loss, accuracy = bayes_limit(noise)
    assert loss == pytest.approx(-np.log(p).mean(), abs=4 * np.log(p).std() / np.sqrt(y.size))
    assert accuracy == pytest.approx(100 * (p > 0.5).mean(), abs=400 * (p > 0.5).std() / np.sqrt(y.size))


@pytest.mark.parametrize(("noise", "loss", "accuracy"), [(0.02, 0, 100), (200, np.log(2), 50)])
def test_the_bayes_limit_reaches_from_certainty_to_a_guess(noise, loss, accuracy):
    assert bayes_limit(noise) == pytest.approx((loss, accuracy), abs=1e-2 * accuracy, rel=0)
    assert bayes_limit(noise)[0] == pytest.approx(loss, abs=1e-3)
