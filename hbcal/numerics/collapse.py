"""The likelihood with every star integrated out, and with the calibration coefficients integrated out too.

One label, one block of stars. Slot s of star i holds a measurement y_is of variance V_is with design row phi_is, so
that y_is = z_i + phi_is . b_s + noise. With a flat z_i, w = 1/V on the measurements that exist, W = sum_s w_s and
K = diag(w) - w w^T / W,

    log p_i = -1/2 [ sum_s log 2 pi V_s - log 2 pi + log W + r^T K r ],      r_s = y_s - phi_s . b_s .

Summed over stars this is a quadratic in b, held as `Gram`; adding two blocks adds their Grams. With a Gaussian prior on
the free coefficients, b = E theta and theta ~ N(0, diag(sd^2)), theta integrates out and is drawn exactly.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag, solve_triangular

from hbcal._pytree import pytree
from hbcal._typing import Array, Bool, Float

LOG_2PI = 1.8378770664093453


@pytree
class Gram:
    """What stars say about the coefficients: log p(y | b) = const - 1/2 (square - 2 b.linear + b.precision.b).

    Attributes:
        precision: sum_i phi_i^T K_i phi_i, shape (n_coef, n_coef), 1/unit^2 of the coefficients.
        linear: sum_i phi_i^T K_i y_i, shape (n_coef,).
        square: sum_i y_i^T K_i y_i.
        const: sum_i of the terms without y and b.
    """

    precision: Float[Array, "n_coef n_coef"]
    linear: Float[Array, " n_coef"]
    square: Float[Array, ""]
    const: Float[Array, ""]


def gram(
    y: Float[Array, "n_star n_slot"],
    seen: Bool[Array, "n_star n_slot"],
    var: Float[Array, "n_star n_slot"],
    phi: Float[Array, "n_star n_free n_term"],
    spread: Float[Array, "n_free_term n_coef"],
) -> Gram:
    """Integrate every star of a block out: the quadratic form in the free coefficients that is left.

    K y is formed from y - ybar_i, so a large common value (Teff = 5000 K) costs no digits.

    Args:
        y: measurements, label unit; anything finite where nothing was measured.
        seen: where a measurement exists; the others have exactly no influence.
        var: noise variance, label unit squared, > 0 where seen and finite everywhere.
        phi: design rows of the first n_free slots; the remaining slots belong to anchors, without coefficients.
        spread: the matrix E with b = E theta (gauge, repeated visits, categories); rows are (slot, term), slot slowest.

    Returns:
        The `Gram` in theta.

    Errors:
        None: shapes are the caller's duty; a non-positive variance gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones((1, 2))
        >>> g = gram(jnp.array([[1.5, 1.0]]), one > 0, one, jnp.ones((1, 1, 1)), jnp.eye(1))
        >>> float(g.linear[0] / g.precision[0, 0])
        0.5
    """
    n_star, n_free, n_term = phi.shape
    weight = jnp.where(seen, 1.0 / var, 0.0)
    total = weight.sum(1)
    mean = (weight * y).sum(1) / total
    centred = weight * (y - mean[:, None])  # = K y
    square = (weight * (y - mean[:, None]) ** 2).sum()
    log_var = jnp.where(seen, jnp.log(var) + LOG_2PI, 0.0).sum()
    const = -0.5 * (log_var + jnp.log(total).sum() - n_star * LOG_2PI)
    if n_free == 0 or n_term == 0:
        n_coef = spread.shape[1]
        return Gram(jnp.zeros((n_coef, n_coef)), jnp.zeros(n_coef), square, const)

    linear = jnp.einsum("isk,is->sk", phi, centred[:, :n_free]).reshape(-1)
    share = weight[:, :n_free]
    # within a slot: sum_i K_i,ss phi_s^T phi_s; between slots, all pairs at once: -(w_s phi_s)^T (w_t phi_t) / W
    # w_s - w_s^2 / W as w_s times the others' weight over W: no digits lost where one measurement is all but exact
    others = weight @ (1.0 - jnp.eye(weight.shape[1]))[:, :n_free]
    within = share * others / total[:, None]
    blocks = [phi[:, s].T @ (within[:, s, None] * phi[:, s]) for s in range(n_free)]
    full = block_diag(*blocks)
    if n_free > 1:
        joint = (phi * (share / jnp.sqrt(total)[:, None])[:, :, None]).reshape(n_star, -1)
        slot = np.repeat(np.arange(n_free), n_term)
        full = full - jnp.where(slot[:, None] == slot, 0.0, joint.T @ joint)
    return Gram(spread.T @ full @ spread, spread.T @ linear, square, const)


def collapsed_log_density(
    parts: list[Gram], prior_sd: Float[Array, " n_coef"]
) -> tuple[Float[Array, ""], Float[Array, " n_coef"], Float[Array, "n_coef n_coef"]]:
    """Integrate the coefficients out as well, and give their exact conditional posterior.

    With A = sum precision + diag(1/sd^2) = L L^T and h = sum linear,

        log p(y) = sum const - 1/2 [ sum square - |L^-1 h|^2 + 2 sum log L_jj + 2 sum log sd_j ].

    Args:
        parts: one `Gram` per block of stars.
        prior_sd: prior standard deviation of each coefficient, > 0.

    Returns:
        log p(y); the conditional mean A^-1 h; the lower Cholesky factor L of the conditional precision.

    Errors:
        None: a precision that is not positive definite gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> g = Gram(jnp.eye(1) * 3.0, jnp.array([4.0]), jnp.array(6.0), jnp.array(0.0))
        >>> logp, mean, factor = collapsed_log_density([g], jnp.ones(1))
        >>> float(mean[0]), float(factor[0, 0])
        (1.0, 2.0)
    """
    precision = sum((g.precision for g in parts), jnp.diag(prior_sd**-2))
    linear = sum((g.linear for g in parts), jnp.zeros_like(prior_sd))
    factor = jnp.linalg.cholesky(precision)
    half = solve_triangular(factor, linear, lower=True)
    mean = solve_triangular(factor.T, half, lower=False)
    log_det = 2.0 * (jnp.log(jnp.diagonal(factor)).sum() + jnp.log(prior_sd).sum())
    const = sum((g.const for g in parts), jnp.zeros(()))
    square = sum((g.square for g in parts), jnp.zeros(()))
    return const - 0.5 * (square - half @ half + log_det), mean, factor


def conditional_draw(
    mean: Float[Array, " n_coef"], factor: Float[Array, "n_coef n_coef"], white: Float[Array, " n_coef"]
) -> Float[Array, " n_coef"]:
    """Draw the coefficients from their exact conditional posterior, theta = mean + L^-T white.

    Args:
        mean: conditional mean.
        factor: lower Cholesky factor of the conditional precision.
        white: independent standard normal numbers.

    Returns:
        One draw, covariance (L L^T)^-1.

    Errors:
        None.

    Example:
        >>> import jax.numpy as jnp
        >>> float(conditional_draw(jnp.zeros(1), jnp.array([[2.0]]), jnp.ones(1))[0])
        0.5
    """
    return mean + solve_triangular(factor.T, white, lower=False)
