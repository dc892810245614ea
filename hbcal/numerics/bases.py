"""Trend bases: what a survey's offset may depend on, as columns of a design matrix.

A basis turns standardised covariates u (n_row, n_covariate) into columns phi_k(u), their names, and the prior weight of
each column relative to the trend's own sd. To add one: write its function here and add a row to `BASES`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import BSpline


class Columns(NamedTuple):
    """Design columns: values (n_row, n_term), names (n_term), prior weights (n_term) relative to the trend's sd."""

    values: np.ndarray
    names: list[str]
    weights: np.ndarray


def polynomial(
    u: np.ndarray, names: list[str], *, degree: int = 1, decay: float = 0.5, hold: float = np.inf
) -> Columns:
    """All monomials of total degree 1 ... degree: phi = prod_j u_j^(p_j), prior weight decay^(sum p - 1).

    Args:
        u: standardised covariates, shape (n_row, n_covariate), dimensionless.
        names: covariate names, for the terms' names.
        degree: highest total degree, >= 1.
        decay: how much narrower the prior gets with each degree.
        hold: |u| beyond it counts as this much, > 0: a handful of stars far out cannot bend the trend of all others.

    Returns:
        `Columns` in the order of the degree, then of the covariates.

    Errors:
        ValueError when degree < 1 or hold <= 0.

    Example:
        >>> polynomial(np.array([[2.0, 3.0]]), ["a", "b"], degree=2).values.tolist()
        [[2.0, 3.0, 4.0, 6.0, 9.0]]
    """
    if degree < 1:
        raise ValueError(f"a polynomial trend needs degree >= 1, got {degree}.")
    if not hold > 0:
        raise ValueError(f"a polynomial trend is held beyond a positive number of units, got {hold}.")
    u = np.clip(u, -hold, hold)
    values, terms, weights = [], [], []
    for order in range(1, degree + 1):
        for picked in itertools.combinations_with_replacement(range(u.shape[1]), order):
            values.append(np.prod(u[:, picked], axis=1))
            powers = [(names[j], len(list(same))) for j, same in itertools.groupby(picked)]
            terms.append("*".join(name if power == 1 else f"{name}^{power}" for name, power in powers))
            weights.append(decay ** (order - 1))
    return Columns(np.stack(values, axis=1), terms, np.array(weights))


def spline(u: np.ndarray, names: list[str], *, knots: int = 5, low: float = -2.0, high: float = 2.0) -> Columns:
    """Cubic B-splines of each covariate on its own, held at the ends beyond [low, high], the constant left out.

    Args:
        u: standardised covariates, shape (n_row, n_covariate), dimensionless.
        names: covariate names.
        knots: number of equally spaced knots from low to high, >= 2.
        low: where the first knot lies, in standardised units.
        high: where the last knot lies.

    Returns:
        `Columns` with knots + 1 terms per covariate; each column's mean over a uniform grid is zero.

    Errors:
        ValueError when knots < 2 or low >= high.

    Example:
        >>> spline(np.array([[0.0]]), ["x"], knots=3).values.shape
        (1, 4)
    """
    if knots < 2 or low >= high:
        raise ValueError(f"a spline needs at least 2 knots and low < high, got {knots} knots on [{low}, {high}].")
    inner = np.linspace(low, high, knots)
    t = np.concatenate([[low] * 3, inner, [high] * 3])
    n_spline = knots + 2
    # B-splines sum to one: without this step their sum would repeat the zero point
    grid = BSpline.design_matrix(np.linspace(low, high, 401), t, 3).toarray().mean(axis=0)
    drop = np.linalg.qr(np.column_stack([grid, np.eye(n_spline)[:, 1:]]))[0][:, 1:]
    values, terms = [], []
    for j, name in enumerate(names):
        inside = np.append(np.clip(u[:, j], low, high), low)  # scipy refuses no rows at all: one more, then dropped
        values.append(BSpline.design_matrix(inside, t, 3).toarray()[:-1] @ drop)
        terms += [f"spline({name}){k}" for k in range(n_spline - 1)]
    return Columns(np.concatenate(values, axis=1), terms, np.ones(len(terms)))


def hsgp(
    u: np.ndarray, names: list[str], *, functions: int = 10, length: float = 1.0, half_width: float = 4.0
) -> Columns:
    """Hilbert-space approximation of a squared-exponential Gaussian process, additive over the covariates.

    phi_k(u) = L^(-1/2) sin(pi k (u + L) / 2L), weight sqrt(S(pi k / 2L)) with the spectral density
    S(w) = l sqrt(2 pi) exp(-(l w)^2 / 2) of unit amplitude: the trend's sd is the amplitude of the process.

    Args:
        u: standardised covariates, shape (n_row, n_covariate); |u| beyond L is held at the boundary.
        names: covariate names.
        functions: number of basis functions per covariate, >= 1.
        length: length scale l, in standardised units, > 0.
        half_width: half width L of the box, larger than the largest |u| that matters.

    Returns:
        `Columns` with `functions` terms per covariate.

    Errors:
        ValueError when functions < 1 or a length is not positive.

    Source: Solin and Sarkka 2020, Statistics and Computing 30, 419, equations 55 to 60.

    Example:
        >>> hsgp(np.zeros((1, 1)), ["x"], functions=2).names
        ['hsgp(x)1', 'hsgp(x)2']
    """
    if functions < 1 or length <= 0 or half_width <= 0:
        raise ValueError(f"an HSGP needs functions >= 1 and positive lengths, got {functions}, {length}, {half_width}.")
    k = np.arange(1, functions + 1)
    root = np.pi * k / (2 * half_width)
    weight = np.sqrt(length * np.sqrt(2 * np.pi)) * np.exp(-0.25 * (length * root) ** 2)
    inside = np.clip(u, -half_width, half_width)
    values = [np.sin(root * (inside[:, j, None] + half_width)) / np.sqrt(half_width) for j in range(u.shape[1])]
    terms = [f"hsgp({name}){i}" for name in names for i in k]
    return Columns(np.concatenate(values, axis=1), terms, np.tile(weight, u.shape[1]))


@dataclass(frozen=True)
class Basis:
    """A row of the table: the function and the options a recipe may set."""

    build: Callable[..., Columns]
    options: tuple[str, ...]


BASES: Mapping[str, Basis] = {
    "polynomial": Basis(polynomial, ("degree", "decay", "hold")),
    "spline": Basis(spline, ("knots", "low", "high")),
    "hsgp": Basis(hsgp, ("functions", "length", "half_width")),
}


def columns(basis: str, u: np.ndarray, names: list[str], options: Mapping[str, Any]) -> Columns:
    """Evaluate a basis by name.

    Args:
        basis: a key of `BASES`.
        u: standardised covariates, shape (n_row, n_covariate), dimensionless.
        names: covariate names, length n_covariate.
        options: the basis' own settings.

    Returns:
        `Columns` with n_row rows.

    Errors:
        KeyError for an unknown basis, TypeError for an unknown option: recipes are checked before they get here.

    Example:
        >>> columns("polynomial", np.ones((1, 1)), ["x"], {"degree": 2}).names
        ['x', 'x^2']
    """
    return BASES[basis].build(u, names, **options)
