"""Values at the ends of what floats hold: fitted right, or refused by a clear word."""

import warnings

import numpy as np
import pytest
from train_factories import features

from linprobe.errors import DataError, OptionError
from linprobe_train.api import fit_probe, sweep
from linprobe_train.estimator import LinearProbe
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import crew_of
from linprobe_train.solver.preparation import Arithmetic, Preparation

FAR = [1e20, 1e37, 1e-30, 1e-37]
FARTHER = [1e200, 1e300, 1e-200, 1e-300]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [*FAR, *FARTHER])
def test_normalised_rows_do_not_know_their_scale(factor: float, dtype: type[np.floating]) -> None:
    if dtype == np.float32 and factor in FARTHER:
        pytest.skip("no float32")
    X, y = features(300, 8, 3)
    for standardize in (False, True):
        settings = FitSettings(standardize=standardize)
        plain, _ = fit_probe(X.astype(dtype), y, C=10.0, settings=settings)
        probe, report = fit_probe(X.astype(dtype) * dtype(factor), y, C=10.0, settings=settings)

        assert report.converged
        assert np.allclose(probe.coef, plain.coef, rtol=2e-2, atol=2e-3)


def test_rows_of_all_sizes_are_normalised_exactly() -> None:
    X = np.random.default_rng(0).standard_normal((60, 5))
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    for kind in ("float32", "float64"):
        exponents = np.linspace(-44, 38, 60) if kind == "float32" else np.linspace(-307, 307, 60)
        rows = (unit * 10.0 ** exponents[:, None]).astype(kind)
        exact = rows.astype(np.longdouble)
        exact /= np.sqrt(np.square(exact).sum(axis=1, keepdims=True))

        assert np.allclose(Preparation(True, arithmetic="float64").apply(rows), exact, atol=1e-15)
        assert np.allclose(Preparation(True).apply(rows), exact, atol=1e-6)


def test_a_row_of_zeros_is_predicted_by_the_intercept() -> None:
    X, y = features(60, 5, 3)
    model = LinearProbe(normalize=True).fit(X, y)

    assert np.array_equal(
        model.decision_function(np.zeros((1, 5), np.float32))[0], model.intercept_
    )


@pytest.mark.parametrize("factor", [1e20, 1e-30])
def test_standardised_rows_do_not_know_their_scale(factor: float) -> None:
    X, y = features(300, 8, 3)
    settings = FitSettings(normalize=False, standardize=True)
    plain, _ = fit_probe(X, y, C=10.0, settings=settings)
    probe, _ = fit_probe(X * np.float32(factor), y, C=10.0, settings=settings)

    assert np.allclose(probe.coef * factor, plain.coef, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("factor", [1e20, 1e200, 1e-30, 1e-200])
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_rows_too_large_or_small_as_they_are_are_refused(
    factor: float, arithmetic: Arithmetic
) -> None:
    X, y = features(300, 8, 3)
    settings = FitSettings(normalize=False, arithmetic=arithmetic)
    with pytest.raises(DataError, match=r"largest value of the features is \d.*e[+-]\d") as refused:
        fit_probe(X.astype(np.float64) * factor, y, settings=settings)
    assert "scale" in refused.value.hint


def test_rows_that_normalise_to_one_another_are_fitted_without_them() -> None:
    X = np.outer(np.arange(1, 31), [3.0, 4.0]).astype(np.float32)
    _, report = fit_probe(X, np.arange(30) % 3, C=1e6)

    assert report.converged
    assert report.loss == pytest.approx(np.log(3), abs=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
def test_so_large_a_C_that_nothing_is_regularised(normalize: bool) -> None:
    X, y = features(300, 8, 3)
    settings = FitSettings(normalize=normalize, arithmetic="float64")
    exact = fit_probe(X, y, C=1e10, settings=settings, tolerance=Tolerance(1e-11, 1e-14))[1]
    report = fit_probe(X, y, C=1e10, settings=FitSettings(normalize=normalize))[1]

    assert exact.converged
    assert report.converged
    # Weights are so large that the rounding of rows to float32 is seen in the objective.
    assert report.objective == pytest.approx(exact.objective, rel=5e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused_with_its_row(value: float) -> None:
    X, y = features(1500, 5, 3)
    X[1234, 3] = value
    with pytest.raises(DataError, match="row 1234 of the features is NaN or infinite"):
        fit_probe(X, y)


@pytest.mark.parametrize(
    "wrong", [Tolerance(gap=-1e-6), Tolerance(gap=np.nan), Tolerance(max_iter=-1)]
)
def test_a_tolerance_below_zero_is_refused(wrong: Tolerance) -> None:
    with pytest.raises(OptionError, match="a tolerance with"):
        fit_probe(*features(30, 4, 2), tolerance=wrong)


def test_threads_are_counted_alike_everywhere() -> None:
    X, y = features(3000, 8, 3)
    probes = [fit_probe(X, y, settings=FitSettings(threads=n))[0] for n in (1, None, -1)]
    assert all(np.array_equal(probes[0].coef, probe.coef) for probe in probes)
    for call in (fit_probe, sweep):
        with pytest.raises(OptionError, match="0 threads; expected 1 or more"):
            call(X, y, settings=FitSettings(threads=0))


def test_val_may_have_a_class_that_train_lacks() -> None:
    X, y = features(300, 8, 3)
    seen = y[:200] < 2
    found = sweep(X[:200][seen], y[:200][seen], val=X[200:], val_labels=y[200:])

    assert found.fit.converged
    assert found.probe.n_classes == 3
    assert found.sweep is not None
    assert max(point.score for point in found.sweep.points) < 0.75


def test_many_small_fits_in_one_process_warn_of_nothing() -> None:
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(100):
            n, d, k = rng.integers(8, 60), rng.integers(1, 9), rng.integers(2, 5)
            X, y = features(int(n), int(d), int(k), seed=seed, noise=float(rng.uniform(0.01, 3)))
            settings = FitSettings(normalize=bool(d > 1 and seed % 2), standardize=seed % 3 == 0)
            probe, report = fit_probe(X, y, C=float(10 ** rng.uniform(-5, 6)), settings=settings)
            assert report.converged
            assert np.isfinite(probe.coef).all()


def test_a_flag_that_blas_raises_for_no_data_is_no_warning() -> None:
    """What raises it is not in our hands, so that a product of our own stands for it."""

    def product(_: int) -> float:
        return float(np.matmul(np.array([[np.inf]]), np.array([[0.0]]))[0, 0])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for threads in (1, 2):
            with crew_of(threads) as crew:
                assert np.isnan(list(crew.map(product, [0, 1, 2]))).all()
        with pytest.raises(RuntimeWarning, match="invalid value"):
            product(0)
