"""The Parametric Memory Law: fit it, doubt it, predict with it (chapter: The memory law).

    ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b        (paper, Eq. 6)

ΔL is what a run learnt: base loss minus final loss, in nats per token. Tables have one row a run
and the columns of `sweep.load_rows`; the law needs r, length, delta_loss and final_loss, its
rivals base_loss and parameters too.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

SATURATED = 0.69  # nats per token: a run that ends at or below it was full, and tells no limit


@dataclass(frozen=True)
class Form:
    """One candidate for the law: a formula of a table, with parameters inside bounds."""

    formula: str
    names: tuple[str, ...]
    predict: Callable[[Sequence[float], pd.DataFrame], np.ndarray]  # -> ΔL, (runs,)
    lower: tuple[float, ...]
    upper: tuple[float, ...]


def _power(p, size, length):
    """C · size^α · ℓ^(−β), with p = (ln C, α, β, …)."""
    return np.exp(p[0] + p[1] * np.log(size) - p[2] * np.log(length))


def _saturating(p, t):
    """An exponential approach to the base loss L₀: no run can learn more than there is to learn.

    The text's size is counted in nats, ℓ · L₀, so that one fit may serve texts of every kind.
    """
    return t.base_loss * -np.expm1(-_power(p, t.r, t.length * t.base_loss))


# ln C is fitted, not C: one scale for all parameters, and C stays positive. The lower bound of α
# and β keeps them positive; that of b is far below anything that a loss can be.
POWER = {"lower": (-30.0, 1e-3, 1e-3), "upper": (30.0, 5.0, 5.0)}
FORMS = {
    "law": Form(
        "C r^α ℓ^−β + b",
        ("ln C", "α", "β", "b"),
        lambda p, t: _power(p, t.r, t.length) + p[3],
        (*POWER["lower"], -200.0),
        (*POWER["upper"], 50.0),
    ),
    "no offset": Form(
        "C r^α ℓ^−β", ("ln C", "α", "β"), lambda p, t: _power(p, t.r, t.length), **POWER
    ),
    "parameters": Form(
        "C P^α ℓ^−β + b",
        ("ln C", "α", "β", "b"),
        lambda p, t: _power(p, t.parameters, t.length) + p[3],
        (*POWER["lower"], -200.0),
        (*POWER["upper"], 50.0),
    ),
    "logarithmic": Form(
        "c + α ln r − β ln ℓ",
        ("c", "α", "β"),
        lambda p, t: p[0] + p[1] * np.log(t.r) - p[2] * np.log(t.length),
        (-200.0, 1e-3, 1e-3),
        (200.0, 50.0, 50.0),
    ),
    "saturating": Form("L₀ (1 − exp(−C r^α (ℓ L₀)^−β))", ("ln C", "α", "β"), _saturating, **POWER),
    "fixed bits": Form(
        "min(L₀, k P / ℓ)",
        ("k",),
        lambda p, t: np.minimum(t.base_loss, p[0] * t.parameters / t.length),
        (0.0,),
        (100.0,),
    ),
}


@dataclass(frozen=True)
class Fit:
    """A fitted form, how well it fits, and the runs that it was fitted on."""

    form: str
    values: np.ndarray  # (k,) in the order of `FORMS[form].names`
    covariance: np.ndarray  # (k, k), from the Jacobian at the optimum: equal, independent noise
    table: pd.DataFrame

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """ΔL of each row of `table`, in nats per token."""
        return np.asarray(FORMS[self.form].predict(self.values, table), dtype=float)

    @property
    def residuals(self) -> np.ndarray:
        """Measured minus fitted ΔL, nats per token."""
        return self.table.delta_loss.to_numpy() - self.predict(self.table)

    @property
    def r2(self) -> float:
        """Share of the variance of ΔL that the form explains."""
        y = self.table.delta_loss
        return float(1 - (self.residuals**2).sum() / ((y - y.mean()) ** 2).sum())

    @property
    def mape(self) -> float:
        """Mean absolute error, in percent of the measured ΔL."""
        return float(100 * np.mean(np.abs(self.residuals / self.table.delta_loss)))

    @property
    def aic(self) -> float:
        """Akaike's criterion for normal noise, corrected for few runs; lower is better."""
        n, k = len(self.table), len(self.values) + 1  # the noise is a parameter too
        return float(n * np.log(np.mean(self.residuals**2)) + 2 * k + 2 * k * (k + 1) / (n - k - 1))

    def summary(self, draws: np.ndarray, level: float = 0.9) -> pd.DataFrame:
        """A row a parameter: value, standard error, and the interval of bootstrap `draws`."""
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        columns = {"value": self.values, "se": np.sqrt(np.diag(self.covariance))}
        return pd.DataFrame(columns | {"low": low, "high": high}, index=FORMS[self.form].names)


def unsaturated(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that the law is about: finished, and not full (final loss above 0.69)."""
    if "error" in table:
        table = table[table.error.fillna("") == ""]
    return table[table.final_loss > SATURATED].reset_index(drop=True)


def fit(table: pd.DataFrame, form: str = "law") -> Fit:
    """Least squares on ΔL over the unsaturated runs of `table`, from several starts.

    Raises:
        ValueError: unknown form or missing column; no run unsaturated; a ΔL that is not above 0;
            fewer runs than parameters + 2; one rank or one length only; ΔL constant.

    Warns when a parameter ends on its bound: the runs do not determine it.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}: want one of {', '.join(FORMS)}")
    runs = _checked(table, FORMS[form])
    best = min((_descend(FORMS[form], runs, s) for s in _starts(form, runs)), key=lambda s: s.cost)
    for name, active in zip(FORMS[form].names, best.active_mask, strict=True):
        if active:
            text = f"{name} of {FORMS[form].formula} ended on its bound: these runs do not fix it"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
    noise = 2 * best.cost / (len(runs) - len(best.x))
    covariance = noise * np.linalg.pinv(best.jac.T @ best.jac)
    return Fit(form, best.x, covariance, runs)


def _checked(table: pd.DataFrame, form: Form) -> pd.DataFrame:
    missing = {"r", "length", "delta_loss", "final_loss"} - set(table.columns)
    if missing:
        raise ValueError(f"the table lacks the columns {sorted(missing)}")
    runs = unsaturated(table)
    if not len(runs):
        raise ValueError(f"none of {len(table)} runs ends above {SATURATED} nats: all are full")
    bad = runs[~(runs.delta_loss > 0)]
    if len(bad):
        raise ValueError(
            f"ΔL of {len(bad)} runs is not above 0, the first: {bad.delta_loss.iloc[0]}"
        )
    if len(runs) < len(form.names) + 2:
        raise ValueError(
            f"{len(runs)} unsaturated runs for {len(form.names)} parameters: want 2 more at least"
        )
    for column in ("r", "length"):
        if runs[column].nunique() < 2:
            raise ValueError(f"all unsaturated runs have {column} {runs[column].iloc[0]}: want two")
    if np.ptp(runs.delta_loss) < 1e-6:
        raise ValueError(f"ΔL is {runs.delta_loss.iloc[0]} in all runs: nothing to explain")
    return runs


def _starts(form: str, runs: pd.DataFrame) -> list[list[float]]:
    """Where to begin: for a given b (or ceiling) the law is a plane in logs, solved directly."""
    y, span = runs.delta_loss.to_numpy(), float(np.ptp(runs.delta_loss))
    if form == "fixed bits":
        return [[float(np.median(y * runs.length / runs.parameters))]]
    size = runs.parameters if form == "parameters" else runs.r
    text = runs.length * runs.base_loss if form == "saturating" else runs.length
    plane = np.column_stack([np.ones(len(runs)), np.log(size), -np.log(text)])
    solve = lambda target: list(np.linalg.lstsq(plane, target, rcond=None)[0])  # noqa: E731
    if form == "logarithmic":
        return [solve(y)]
    if form == "saturating":
        return [solve(np.log(-np.log1p(-np.clip(y / runs.base_loss, None, 0.999))))]
    if form == "no offset":
        return [solve(np.log(y))]
    offsets = [0.9 * y.min(), 0.0, -span, -4 * span, -16 * span]
    return [[*solve(np.log(y - b)), b] for b in offsets]


def _descend(form: Form, runs: pd.DataFrame, start, weights=None):
    """One bounded least-squares descent on ΔL. `weights`: how often each run counts, (runs,)."""
    columns = runs.select_dtypes("number").to_records(index=False)  # far quicker than a DataFrame
    root = 1.0 if weights is None else np.sqrt(weights)
    inside = np.clip(start, np.add(form.lower, 1e-6), np.subtract(form.upper, 1e-6))
    return least_squares(
        lambda p: root * (form.predict(p, columns) - columns.delta_loss),
        inside, bounds=(form.lower, form.upper), x_scale="jac",
    )  # fmt: skip


def bootstrap(fitted: Fit, draws: int = 400, seed: int = 0) -> np.ndarray:
    """Refit on resampled runs: cells first, then the seeds inside each; (draws, k) values.

    A cell is one rank and length. Its seeds share whatever the form gets wrong about it, so whole
    cells are drawn; a draw with too few of them to fix the parameters is drawn again.
    """
    rng = np.random.default_rng(seed)
    cells = list(fitted.table.groupby(["r", "length"]).indices.values())
    form, values = FORMS[fitted.form], []
    while len(values) < draws:
        chosen = rng.choice(len(cells), size=len(cells))
        rows = np.concatenate([rng.choice(cells[i], size=len(cells[i])) for i in chosen])
        sample = fitted.table.iloc[rows]
        too_few = len(set(chosen)) < len(form.names) + 1
        if too_few or min(sample.r.nunique(), sample.length.nunique()) < 2:
            continue
        weights = np.bincount(rows, minlength=len(fitted.table))
        values.append(_descend(form, fitted.table, fitted.values, weights).x)
    return np.array(values)


def predict_interval(
    fitted: Fit, draws: np.ndarray, table: pd.DataFrame, level: float = 0.9, seed: int = 0
) -> pd.DataFrame:
    """ΔL of new runs: predicted, low, high. Uncertain parameters and a run's own noise together."""
    rng = np.random.default_rng(seed)
    form = FORMS[fitted.form]
    means = np.array([np.asarray(form.predict(p, table), dtype=float) for p in draws])
    # Residuals are smaller than the noise by the share of freedom that the parameters took.
    inflate = np.sqrt(len(fitted.table) / (len(fitted.table) - len(fitted.values)))
    noise = rng.choice(fitted.residuals * inflate, size=means.shape)
    low, high = np.quantile(means + noise, [(1 - level) / 2, (1 + level) / 2], axis=0)
    columns = {"predicted": fitted.predict(table), "low": low, "high": high}
    return pd.DataFrame(columns, index=table.index)


def leave_out(table: pd.DataFrame, by: str, form: str = "law") -> pd.DataFrame:
    """Predict each value of the column `by` ("length", "r") from a fit that never saw it.

    Returns the unsaturated runs with the columns predicted and outside (True when the value lies
    beyond all those fitted on). A value without which nothing can be fitted is left out.
    """
    runs, parts = unsaturated(table), []
    for value, held in runs.groupby(by):
        rest = runs[runs[by] != value]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                predicted = fit(rest, form).predict(held)
        except ValueError:
            continue
        outside = not rest[by].min() < value < rest[by].max()
        parts.append(held.assign(predicted=predicted, outside=outside))
    if not parts:
        raise ValueError(f"no value of {by} can be left out of these {len(runs)} runs")
    return pd.concat(parts)


def mape(measured, predicted) -> float:
    """Mean absolute error in percent of what was measured."""
    measured, predicted = np.asarray(measured), np.asarray(predicted)
    return float(100 * np.mean(np.abs(predicted - measured) / measured))


def compare_forms(table: pd.DataFrame, forms: Sequence[str]) -> pd.DataFrame:
    """The rivals on the same runs, best held-out error first.

    Columns: formula, parameters, r2, mape (%), aic (difference to the best), and the error in
    percent when each length, each rank is left out.
    """
    rows = {}
    for form in forms:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            fitted = fit(table, form)
        held = {by: leave_out(table, by, form) for by in ("length", "r")}
        rows[form] = {
            "formula": FORMS[form].formula,
            "parameters": len(fitted.values),
            "r2": fitted.r2,
            "mape": fitted.mape,
            "aic": fitted.aic,
            **{f"held_{by}": mape(t.delta_loss, t.predicted) for by, t in held.items()},
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame["aic"] -= frame.aic.min()
    return frame.sort_values("held_length")


def rank_for(fitted: Fit, length: int, base_loss: float, final_loss: float) -> float:
    """The rank (not rounded) that brings `length` tokens from `base_loss` to `final_loss`, in nats.

    Raises:
        ValueError: the losses are not 0 < final_loss < base_loss; the form has no inverse; or the
            law's b alone is more than the difference, so that any rank would do.
    """
    ln_c, alpha, beta, size, gain = _inverse(fitted, length, base_loss, final_loss)
    return float(np.exp((np.log(gain) - ln_c + beta * np.log(size)) / alpha))


def length_for(fitted: Fit, r: float, base_loss: float, final_loss: float) -> float:
    """How many tokens of mean `base_loss` a rank of `r` brings to `final_loss`.

    Raises:
        ValueError: as `rank_for`.
    """
    ln_c, alpha, beta, size, gain = _inverse(fitted, 1, base_loss, final_loss)
    return float(np.exp((ln_c + alpha * np.log(r) - np.log(gain)) / beta) / size)


def _inverse(fitted: Fit, length, base_loss, final_loss):
    """ln C, α, β, the text's size, and what C · r^α · size^(−β) has to be."""
    if not 0 < final_loss < base_loss:
        raise ValueError(
            f"base_loss is {base_loss}, final_loss {final_loss}: want 0 < final_loss < base_loss"
        )
    if fitted.form == "saturating":
        return *fitted.values, length * base_loss, np.log(base_loss / final_loss)
    if fitted.form not in ("law", "no offset"):
        raise ValueError(f"{FORMS[fitted.form].formula} has no inverse here")
    ln_c, alpha, beta, b = (*fitted.values, 0.0)[:4]
    if base_loss - final_loss <= b:
        raise ValueError(f"ΔL of {base_loss - final_loss:.3g} is not above b = {b:.3g}")
    return ln_c, alpha, beta, length, base_loss - final_loss - b


def bits_per_parameter(table: pd.DataFrame) -> pd.Series:
    """What each run learnt, in bits per trainable parameter: ΔL · ℓ / (P ln 2)."""
    return table.delta_loss * table.length / (table.parameters * np.log(2))
