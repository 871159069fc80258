"""The default rule: which rows are held out, which C is taken, at which temperature."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from train_factories import features, make_rows

from linprobe.errors import DataError, OptionError
from linprobe_train.api import sweep
from linprobe_train.protocol.band import chosen_C, row_losses
from linprobe_train.protocol.cuts import stratified_folds, stratified_tenth
from linprobe_train.protocol.held_out import cut_rows
from linprobe_train.protocol.protocols import BAND, DEFAULT, PROTOCOLS, list_grid
from linprobe_train.protocol.scoring import Likelihood, SweepPoint
from linprobe_train.protocol.search import Sweep, search
from linprobe_train.protocol.temperature import GAIN, fit_temperature
from linprobe_train.scores.metrics import score_value
from linprobe_train.solver.fit import FitSettings, fit_rows
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import Rows, rows_of_array

Float64 = NDArray[np.float64]


def cut(n: int, n_val: int = 0, k: int = 4) -> tuple[str, int, int]:
    """Where the default holds rows out, how many are scored, and fits a value of C."""
    train, val = make_rows(n, k=k), make_rows(n_val, k=k, seed=1) if n_val else None
    everything = train if val is None else train.join(val)
    pairs, held = cut_rows(train, val, everything, BAND, folds=0, seed=0)
    assert sum(rows.n for _, rows in pairs) == held.n
    return held.source, held.n, len(pairs)


def test_a_val_of_100_rows_is_held_out_and_a_smaller_one_joins_the_folds() -> None:
    assert cut(200, 100) == ("val", 100, 1)
    assert cut(200, 99) == ("5 stratified folds of train+val", 299, 5)
    assert cut(200) == ("5 stratified folds of train", 200, 5)


def test_from_10000_rows_a_tenth_is_held_out() -> None:
    assert cut(9999) == ("5 stratified folds of train", 9999, 5)
    assert cut(10_000) == ("a stratified tenth of train", 1000, 1)
    assert cut(9_950, 50) == ("a stratified tenth of train+val", 1000, 1)


def test_there_are_no_more_folds_than_rows_that_can_be_held_out() -> None:
    rows = make_rows(60, k=4)
    keep = np.zeros(60, bool)
    for label, count in enumerate((2, 1, 1, 1)):
        keep[np.flatnonzero(rows.labels == label)[:count]] = True
    few = rows.select(keep)
    pairs, held = cut_rows(few, None, few, BAND, folds=0, seed=0)

    assert (len(pairs), held.n, held.never, held.folds) == (2, 2, 3, 2)
    for fitted, scored in pairs:
        assert set(fitted.labels.tolist()) == {0, 1, 2, 3}
        assert scored.labels.tolist() == [0]


def test_single_rows_of_a_class_are_in_every_fit_and_never_scored() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 0, 1])
    folds, held = stratified_folds(labels, 3, 0), stratified_tenth(labels, 0)

    assert folds[5] == -1
    assert set(np.delete(folds, 5).tolist()) == {0, 1, 2}
    assert not held[5]
    assert held.sum() == 1
    with pytest.raises(DataError, match="no class has two training rows"):
        stratified_tenth(np.array([0, 1, 2]), 0)


def test_literal_protocols_keep_their_held_out_rows() -> None:
    train, val = make_rows(200), make_rows(20, seed=1)

    assert cut_rows(train, val, train.join(val), "score", folds=0, seed=0)[1].source == "val"
    assert cut_rows(train, None, train, "score", folds=0, seed=0)[1].source == (
        "a stratified tenth of train"
    )
    assert {name: row.rule for name, row in PROTOCOLS.items()} == {
        "default": BAND,
        "clip-paper": "score",
        "clip-readme": "score",
        "dino": "score",
    }


def test_what_is_asked_for_by_hand_is_searched_by_score() -> None:
    assert DEFAULT.changed(grid=list_grid(1, 10)).rule == "score"
    assert DEFAULT.asked("top1", 0).rule == "score"
    assert DEFAULT.asked(None, 5).rule == "score"
    assert DEFAULT.asked("top1", 0).name == "default-custom"
    assert DEFAULT.asked(None, 0) == DEFAULT
    assert PROTOCOLS["clip-paper"].asked("top1", 5) == PROTOCOLS["clip-paper"]


def point(C: float, nll: float, score: float) -> SweepPoint:
    """A scored value of C."""
    return SweepPoint(C, score, (), likelihood=Likelihood(nll, 0.0, in_band=False))


def test_of_the_C_within_a_fiftieth_of_a_nat_the_best_metric_is_taken() -> None:
    points = [point(1, 0.50, 0.99), point(10, 0.319, 0.95), point(100, 0.30, 0.94)]
    C, marked = chosen_C(points, 50, float)

    assert C == 10
    assert [p.likelihood.in_band for p in marked if p.likelihood] == [False, True, True]
    assert chosen_C([point(10, 0.321, 0.95), point(100, 0.30, 0.94)], 50, float)[0] == 100


def test_ties_go_to_the_least_loss_then_to_the_smaller_C() -> None:
    tied = [point(1, 0.31, 0.9), point(10, 0.30, 0.9), point(100, 0.30, 0.9)]

    assert chosen_C(tied, 50, float)[0] == 10
    # A loss as the headline metric is minimised.
    assert chosen_C([point(1, 0.30, 0.9), point(10, 0.31, 0.8)], 50, lambda x: -x)[0] == 10


def test_the_prior_decides_where_the_loss_does_not() -> None:
    far, near = (
        SweepPoint(C, 0.9, (), likelihood=Likelihood(0.3, penalty, in_band=False))
        for C, penalty in ((1.0, 2.0), (1e4, 0.0))
    )

    # 2 nats are more than 50 rows allow in the band, and a tie of 500 rows goes to the least.
    assert [p.likelihood.in_band for p in chosen_C([far, near], 50, float)[1] if p.likelihood] == [
        False,
        True,
    ]
    assert chosen_C([far, near], 500, float)[0] == 1e4


def test_the_prior_is_a_parabola_in_the_logarithm_of_C_times_the_size_of_rows(crew: Crew) -> None:
    X, y = features(100, 8, 3, noise=2)
    doubled = rows_of_array(2 * X, y, 3)
    plain = FitSettings(normalize=False)
    square = float(np.square(2 * X, dtype=np.float64).sum(axis=1).mean())
    chosen = search(doubled, None, DEFAULT.grid, plain, crew, rule=BAND)

    assert chosen.sweep is not None
    for p in chosen.sweep.points:
        assert p.likelihood is not None
        assert p.likelihood.penalty == pytest.approx((math.log10(p.C * square) - 4) ** 2 / 8)


def test_losses_are_capped_where_a_class_cannot_be_predicted() -> None:
    p = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])

    assert row_losses(p[[0, 1], [0, 2]], np.array([0, 2])) == pytest.approx(
        [math.log(2), 36.04], abs=0.01
    )
    hot = np.array([[1, 0, 0], [0, 1, 0]], np.uint8)
    assert row_losses(p, hot) == pytest.approx([2 * math.log(2) / 3, 0.0])


def test_every_value_has_its_held_out_loss_of_fits_to_the_end(crew: Crew) -> None:
    rows = make_rows(120, k=3, noise=2.0)
    chosen = search(rows, None, DEFAULT.grid, FitSettings(), crew, rule=BAND, seed=3)
    folds = stratified_folds(rows.labels, 5, 3)

    assert chosen.sweep is not None
    assert len(chosen.sweep.points) == 11
    assert (chosen.held_out.folds, chosen.held_out.seed, chosen.held_out.n) == (5, 3, 120)
    for p in chosen.sweep.points:
        out = np.empty((120, 3))
        for i in range(5):
            probe, _ = fit_rows(rows.select(folds != i), p.C, FitSettings(), Tolerance(gap=1e-8))
            out[folds == i] = probe.probabilities(rows.select(folds == i))
        assert p.likelihood is not None
        assert p.likelihood.nll == pytest.approx(score_value("nll", out, rows.labels), abs=2e-3)
        assert p.score == pytest.approx(score_value("top1", out, rows.labels), abs=0.02)
        assert all(fit.converged for fit in p.fits)


def test_an_easy_set_gets_probabilities_that_can_be_used() -> None:
    X, y = features(550, 16, 5, noise=0.4, seed=2)
    small = sweep(X[:50], y[:50])
    by_score = sweep(X[:50], y[:50], metric="top1")
    rest = rows_of_array(X[50:], y[50:], 5)
    losses = [
        score_value("nll", chosen.probe.probabilities(rest), rest.labels)
        for chosen in (small, by_score)
    ]

    assert by_score.fit.C < small.fit.C
    assert losses[0] < 0.2 < losses[1]


def test_losses_are_minimised_and_calibration_is_refused() -> None:
    X, y = features(200, 8, 3, noise=2)
    chosen = sweep(X, y, metric="nll")

    assert chosen.sweep is not None
    assert chosen.fit.C == min(chosen.sweep.points, key=lambda p: (p.score, p.C)).C
    with pytest.raises(OptionError, match="cannot be chosen by ECE"):
        sweep(X, y, metric="ece")


def test_where_every_class_has_one_row_C_is_not_chosen_and_says_so() -> None:
    X, y = features(30, 8, 3)
    first = [int(np.flatnonzero(y == label)[0]) for label in range(3)]
    chosen = sweep(X[first], y[first])

    assert (chosen.fit.C, chosen.sweep, chosen.temperature) == (1e4, None, None)
    assert (chosen.held_out.n, chosen.held_out.never) == (0, 3)
    (line,) = chosen.warnings()
    assert "C = 10000 was not chosen" in line
    with pytest.raises(DataError, match="no class has two training rows"):
        sweep(X[first], y[first], metric="top1")


def test_single_rows_are_told() -> None:
    X, y = features(90, 8, 3)
    y = y.copy()
    y[0] = 3
    chosen = sweep(X, y)

    assert chosen.held_out.never == 1
    assert chosen.probe.fitted.tolist() == [0, 1, 2, 3]
    assert any("1 training row is the only one of its class" in line for line in chosen.warnings())


def test_val_may_have_a_class_that_train_lacks() -> None:
    X, y = features(400, 8, 4)
    train = y[:200] != 3
    chosen = sweep(X[:200][train], y[:200][train], val=X[200:], val_labels=y[200:])
    absent = int((y[200:] == 3).sum())

    assert chosen.held_out.absent == absent
    assert chosen.probe.fitted.tolist() == [0, 1, 2, 3]
    assert any(f"{absent} of the 200 rows of val" in line for line in chosen.warnings())


def told(T: float, n: int, seed: int = 0) -> tuple[Probe, Rows]:
    """A probe whose logits are T times those that labels were drawn from."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.standard_normal((n, 3))
    labels = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in z])
    probe = Probe(T * np.eye(3), np.zeros(3), "softmax", False, np.arange(3), 3, False)
    return probe, rows_of_array(z.astype(np.float64), labels, 3)


def test_the_temperature_is_the_penalised_minimum_over_pooled_rows() -> None:
    pairs = [told(2.0, 150), told(2.0, 90, seed=1)]
    z = np.concatenate([probe.logits(rows) for probe, rows in pairs])
    y = np.concatenate([rows.labels for _, rows in pairs])

    def loss(u: float) -> float:
        return float(-log_softmax(z / math.exp(u), axis=1)[np.arange(240), y].sum())

    exact = math.exp(
        minimize_scalar(lambda u: loss(u) + u * u / 2, bounds=(-3, 3), method="bounded").x
    )
    found = fit_temperature(pairs, "val")

    assert pytest.approx(exact, rel=1e-4) == found.T
    assert found.gain == pytest.approx(loss(0) - loss(math.log(exact)), abs=1e-3)
    assert found.applied
    assert found.used == found.T
    assert 1.6 < found.T < 2.5
    assert (found.source, found.rows) == ("val", 240)


def test_a_small_gain_is_not_applied() -> None:
    found = fit_temperature([told(1.05, 100)], "val")

    assert found.gain < GAIN
    assert not found.applied
    assert found.used == 1.0


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_temperature_of_sigmoids(multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    z = 2 * rng.standard_normal((500, 1))
    labels = (rng.random((500, 1)) < 1 / (1 + np.exp(-z))).astype(np.uint8)
    if multi_label:
        rows = rows_of_array(z, labels, 1)
        probe = Probe(3 * np.eye(1), np.zeros(1), "sigmoid", False, np.arange(1), 1, True)
    else:
        rows = rows_of_array(z, labels[:, 0].astype(np.int64), 2)
        probe = Probe(3 * np.eye(1), np.zeros(1), "sigmoid", False, np.arange(2), 2, False)
    found = fit_temperature([(probe, rows)], "val")

    assert found.applied
    assert 2 < found.T < 4


def test_rows_of_classes_without_a_logit_say_nothing_of_the_temperature() -> None:
    probe, rows = told(2.0, 150)
    more = Rows(rows.blocks, np.where(np.arange(150) < 20, 3, rows.labels), 4)
    known = Rows(rows.blocks, rows.labels, 4).select(np.arange(150) >= 20)
    wide = Probe(probe.coef, probe.intercept, "softmax", False, np.arange(3), 4, False)

    assert fit_temperature([(wide, more)], "val") == fit_temperature([(wide, known)], "val")


def test_an_edge_is_told_only_where_the_loss_still_falls(crew: Crew) -> None:
    rows = make_rows(100, k=3, noise=0.1)
    chosen = search(rows, None, DEFAULT.grid, FitSettings(), crew, rule=BAND)

    assert chosen.sweep is not None
    assert chosen.sweep.warnings() == ()
    falling = tuple(point(10.0**i, 0.5 - 0.05 * i, 0.9) for i in range(3))
    (line,) = Sweep("top1", falling, 100.0, BAND).warnings()
    assert "the best C, 100, is the largest, and the held-out loss still falls there" in line
    assert Sweep("top1", falling, 10.0, BAND).warnings() == ()


def test_the_probe_of_a_search_is_divided_by_the_temperature_that_is_applied() -> None:
    X, y = features(300, 40, 4, noise=3, seed=1)
    chosen = sweep(X[:150], y[:150], val=X[150:], val_labels=y[150:])

    assert chosen.temperature is not None
    assert chosen.temperature.source == "val"
    assert chosen.probe.temperature == chosen.temperature.used


def test_the_temperature_of_a_search_by_score_is_that_of_fits_to_the_end_on_its_folds() -> None:
    X, y = features(300, 40, 4, noise=3, seed=1)
    chosen = sweep(X, y, protocol=DEFAULT.changed(grid=list_grid(1e4, 1e5)), folds=4, seed=2)

    fold = stratified_folds(y, 4, 2)
    rows = rows_of_array(X, y, 4)
    pairs = [
        (fit_rows(rows.select(fold != i), chosen.fit.C, FitSettings(), Tolerance())[0], fold == i)
        for i in range(4)
    ]
    expected = fit_temperature([(probe, rows.select(held)) for probe, held in pairs], "")
    assert chosen.temperature is not None
    assert chosen.temperature.applied
    assert (chosen.temperature.rows, chosen.temperature.source) == (
        300,
        "4 stratified folds of train",
    )
    assert pytest.approx(expected.T, rel=1e-3) == chosen.temperature.T
    assert chosen.probe.temperature == chosen.temperature.T
