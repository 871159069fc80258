"""Solvers of one objective, ours and others, each behind one form; imported when first asked for.

They stop in ways of their own. To bring one to a gap it is run at ever smaller tolerances, of which
the first that reaches the gap counts. optax has no stop: it is told the value of F to reach, as
nobody who uses it could be, and its compilation is left out.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from linprobe_train.api import fit_probe
from linprobe_train.estimator import LinearProbe
from linprobe_train.solver.fit import FitSettings

Features = NDArray[np.float32] | NDArray[np.float64]
Labels = NDArray[np.int64]
LARGEST_FIRST = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Tolerances on the largest entry of the gradient of the mean loss; 1e-4 is the default."""
GAPS = (1e-6, 1e-7, 1e-8)
"""Tolerances on the relative duality gap."""


@dataclass(frozen=True)
class Fit:
    """One fit, from nothing."""

    seconds: float
    """CPU seconds of the process."""
    steps: int
    """Iterations as the solver counts them; of ours, passes over the rows."""
    coef: NDArray[np.float64]
    """(k, d)"""
    intercept: NDArray[np.float64]
    """(k,)"""


Solve = Callable[[Features, Labels, float, float, int], Fit]
"""Of rows (n, d), labels (n,), C, a tolerance of the solver's own or the F to reach, iterations."""


@dataclass(frozen=True)
class Solver:
    """A line of the table."""

    name: str
    """As it stands there."""
    package: str
    """What has to be importable."""
    dtype: type[np.floating]
    """Of the rows."""
    solve: Solve
    """Fits once."""
    tolerances: tuple[float, ...]
    """Tried in turn until the gap is reached; empty for the F to reach."""

    @property
    def installed(self) -> bool:
        """Whether it can be imported."""
        return importlib.util.find_spec(self.package) is not None


def clocked(model: Any, X: Features, y: Labels) -> Fit:
    """Fit an estimator of scikit-learn's form."""
    begin = time.process_time()
    model.fit(X, y)
    seconds = time.process_time() - begin
    steps = model.report_.passes if isinstance(model, LinearProbe) else model.n_iter_
    coef, intercept = np.asarray(model.coef_, float), np.asarray(model.intercept_, float)
    return Fit(seconds, int(np.max(steps)), coef, intercept.ravel())


def walk(model: Any, X: Features, y: Labels) -> Callable[[float], Fit]:
    """Fits of an estimator at one C after the other, each going on from the one before."""
    return lambda C: clocked(model.set_params(C=C, warm_start=True), X, y)


def ours(X: Features, y: Labels, C: float, tol: float, max_iter: int) -> Fit:
    """Fit as ``linprobe.fit_probe`` does; the rows are prepared."""
    begin = time.process_time()
    probe, report = fit_probe(X, y, C=C, settings=FitSettings(normalize=False))
    return Fit(time.process_time() - begin, report.passes, probe.coef, probe.intercept)


def our_estimator(X: Features, y: Labels, C: float, tol: float, max_iter: int) -> Fit:
    """Fit ``LinearProbe``."""
    return clocked(LinearProbe(C, max_iter=max_iter, n_jobs=1), X, y)


def scikit_learn(X: Features, y: Labels, C: float, tol: float, max_iter: int) -> Fit:
    """Fit ``LogisticRegression``."""
    return clocked(LogisticRegression(C=C, tol=tol, max_iter=max_iter), X, y)


def intel(X: Features, y: Labels, C: float, tol: float, max_iter: int) -> Fit:
    """Fit that of scikit-learn-intelex."""
    from sklearnex.linear_model import LogisticRegression as IntelRegression

    return clocked(IntelRegression(C=C, tol=tol, max_iter=max_iter), X, y)


def cyanure(X: Features, y: Labels, C: float, tol: float, max_iter: int) -> Fit:
    """Fit its classifier; the solver that it chooses was the best or nearly so of its seven."""
    from cyanure.estimators import Classifier

    settings = {"tol": tol, "max_iter": max_iter, "n_threads": 1, "verbose": False}
    loss = {"loss": "multiclass-logistic", "penalty": "l2", "lambda_1": 1 / (C * len(X))}
    fit = clocked(Classifier(solver="auto", **loss, **settings), X, y)
    return Fit(fit.seconds, fit.steps, fit.coef.T, fit.intercept)


def optax(X: Features, y: Labels, C: float, target: float, max_iter: int) -> Fit:
    """Run its L-BFGS with the default line search, all iterations as one compiled loop."""
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", X.dtype == np.float64)
    rows, labels, l2 = jnp.asarray(X), jnp.asarray(y, jnp.int32), 1 / (C * len(X))
    solver = optax.lbfgs(memory_size=20)

    def objective(place: Any) -> Any:
        W, b = place
        losses = optax.softmax_cross_entropy_with_integer_labels(rows @ W + b, labels)
        return losses.mean() + 0.5 * l2 * jnp.vdot(W, W)

    def step(carry: Any) -> Any:
        place, state, count, _, stuck = carry
        value, gradient = optax.value_and_grad_from_state(objective)(place, state=state)
        updates, state = solver.update(
            gradient, state, place, value=value, grad=gradient, value_fn=objective
        )
        after = optax.tree.get(state, "value")
        stuck = jnp.where(after < value, 0, stuck + 1)
        return optax.apply_updates(place, updates), state, count + 1, after, stuck

    def loop(place: Any, limit: Any) -> Any:
        first = place, solver.init(place), 0, jnp.asarray(jnp.inf, X.dtype), 0
        return jax.lax.while_loop(
            lambda carry: (carry[3] > target) & (carry[2] < limit) & (carry[4] < 20), step, first
        )

    run, k = jax.jit(loop), int(y.max()) + 1
    zero = jnp.zeros((X.shape[1], k), X.dtype), jnp.zeros(k, X.dtype)
    jax.block_until_ready(run(zero, 0))
    begin = time.process_time()
    (W, b), _, count, *_ = jax.block_until_ready(run(zero, max_iter))
    seconds = time.process_time() - begin
    return Fit(seconds, int(count), np.asarray(W, float).T, np.asarray(b, float))


OURS = (
    Solver("linprobe, fit_probe", "linprobe", np.float32, ours, (1e-6,)),
    Solver("linprobe, LinearProbe f32", "linprobe", np.float32, our_estimator, (1e-6,)),
    Solver("linprobe, LinearProbe f64", "linprobe", np.float64, our_estimator, (1e-6,)),
)
SCIKIT_LEARN = (
    Solver("scikit-learn f64 tol 1e-6", "sklearn", np.float64, scikit_learn, (1e-6,)),
    Solver("scikit-learn f64 default", "sklearn", np.float64, scikit_learn, (1e-4,)),
    Solver("scikit-learn f32 default", "sklearn", np.float32, scikit_learn, (1e-4,)),
)
TO_THE_GAP = (
    Solver("scikit-learn f64", "sklearn", np.float64, scikit_learn, LARGEST_FIRST),
    Solver("scikit-learn f32", "sklearn", np.float32, scikit_learn, LARGEST_FIRST),
    Solver("scikit-learn-intelex f64", "sklearnex", np.float64, intel, LARGEST_FIRST),
    Solver("scikit-learn-intelex f32", "sklearnex", np.float32, intel, LARGEST_FIRST),
    Solver("optax L-BFGS f64", "optax", np.float64, optax, ()),
    Solver("optax L-BFGS f32", "optax", np.float32, optax, ()),
    Solver("cyanure f64", "cyanure", np.float64, cyanure, GAPS),
)
