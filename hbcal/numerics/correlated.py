"""The likelihood with every star integrated out, where the labels of one measurement have correlated errors.

Visit v of star i reports a vector over the labels, y_iv = z_i + Phi_iv b + noise, noise ~ N(0, C_iv), on the labels it
has. With P_iv the inverse of C_iv on those labels and 0 elsewhere, Lambda_i = sum_v P_iv and a flat z_i of L_i labels,

    log p_i = -1/2 [ sum_v log |2 pi C_iv| - L_i log 2 pi + log |Lambda_i|
                     + sum_v r_v^T P_v r_v - h^T Lambda^-1 h ],      r = y - Phi b,  h = sum_v P_v r_v .

Summed over stars this is a quadratic in the coefficients of all labels together, a `hbcal.numerics.collapse.Gram`. With
diagonal C it falls apart into that of each label.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array, Bool, Float
from hbcal.numerics.collapse import LOG_2PI, Gram
from hbcal.numerics.small import factor, log_det, root_inverse


def gram_correlated(
    y: Float[Array, "n_star n_visit n_label"],
    seen: Bool[Array, "n_star n_visit n_label"],
    cov: Float[Array, "n_star n_visit n_label n_label"],
    phi: Float[Array, "n_star n_free n_label n_term"],
    spread: Float[Array, "n_free_label_term n_coef"],
) -> Gram:
    """Integrate every star out: the quadratic form in the coefficients of all labels that is left.

    K = P - P Lambda^-1 P is formed without taking large numbers from each other: within a visit it is
    P_v Lambda^-1 (sum over the other visits of P), so one all but exact measurement costs no digits.

    Args:
        y: measurements, label units; anything finite where nothing was measured.
        seen: where a measurement exists; the others have exactly no influence.
        cov: covariance of the noise of each visit, label units; rows and columns of unseen labels do not matter.
        phi: design rows of the first n_free visits, 0 where unseen; the others are of anchors only.
        spread: b = spread @ theta; rows are (visit, label, term), visit slowest.

    Returns:
        The `Gram` in theta.

    Errors:
        None: a covariance that is not positive definite gives NaN.

    Example:
        >>> one = jnp.ones((1, 2, 1))
        >>> g = gram_correlated(one, one > 0, one[..., None], jnp.ones((1, 1, 1, 1)), jnp.eye(1))
        >>> round(float(g.precision[0, 0]), 12)  # two equal measurements: half the weight of one
        0.5
    """
    n_star, n_visit, n_label = seen.shape
    n_free, n_term = phi.shape[1], phi.shape[3]
    precision, noise = visit_precisions(cov, seen)
    total = precision.sum(1)
    has = seen.any(1)
    rows = factor(total + jnp.where(has, 0.0, 1.0)[:, :, None] * jnp.eye(n_label)[None])
    root = root_inverse(rows)  # Lambda^-1 = root^T root
    inverse = jnp.einsum("ikl,ikm->ilm", root, root)
    mean = jnp.einsum("ilm,ivmn,ivn->il", inverse, precision, jnp.where(seen, y, 0.0))
    away = jnp.where(seen, y - mean[:, None, :], 0.0)
    centred = jnp.einsum("ivlm,ivm->ivl", precision, away)  # = K y
    square = (away * centred).sum()
    const = -0.5 * (noise.sum() + log_det(rows).sum() - has.sum() * LOG_2PI)
    linear = spread.T @ (phi * centred[:, :n_free, :, None]).sum(0).reshape(-1)

    own = precision[:, :n_free]
    others = jnp.einsum("vw,iwlm->ivlm", 1.0 - jnp.eye(n_visit)[:n_free], precision)
    within = jnp.einsum("ivlm,imn,ivnp->ivlp", own, inverse, others)
    weighted = phi[:, :, :, None, :] * within[..., None]  # star, visit, label, other label, term
    size = n_label * n_term
    blocks = jnp.einsum("ivlmt,ivmu->vltmu", weighted, phi).reshape(n_free, size, size)
    mixed = jnp.einsum("ikl,ivlm->ikvm", root, own)[..., None] * phi[:, None]
    flat = mixed.reshape(n_star * n_label, n_free * size)
    visit = np.repeat(np.arange(n_free), size)
    same = visit[:, None] == visit
    tiled = jnp.tile(blocks.transpose(1, 0, 2).reshape(size, n_free * size), (n_free, 1))
    full = jnp.where(same, tiled, -(flat.T @ flat))
    return Gram(spread.T @ full @ spread, linear, square, const)


def visit_precisions(
    cov: Float[Array, "n_star n_visit n_label n_label"], seen: Bool[Array, "n_star n_visit n_label"]
) -> tuple[Float[Array, "n_star n_visit n_label n_label"], Float[Array, "n_star n_visit"]]:
    """Inverse covariance of the labels that each visit has, and log |2 pi C| of them.

    Args:
        cov: covariance of each visit, finite everywhere.
        seen: which labels it has; the others get precision 0.

    Returns:
        Precisions, label units to the -2; logarithms.

    Errors:
        None: a covariance that is not positive definite gives NaN.

    Example:
        >>> seen = jnp.array([[[True, False]]])
        >>> visit_precisions(jnp.array([[[[4.0, 1.0], [1.0, 2.0]]]]), seen)[0].tolist()
        [[[[0.25, 0.0], [0.0, 0.0]]]]
    """
    rows = factor(unit_where_unseen(cov, seen))
    root = root_inverse(rows)
    both = seen[..., :, None] & seen[..., None, :]
    precision = jnp.where(both, jnp.einsum("ivkl,ivkm->ivlm", root, root), 0.0)
    return precision, log_det(rows) + seen.sum(-1) * LOG_2PI


def unit_where_unseen(
    cov: Float[Array, "n_star n_visit n_label n_label"], seen: Bool[Array, "n_star n_visit n_label"]
) -> Float[Array, "n_star n_visit n_label n_label"]:
    """The covariance of each visit with unseen labels independent of the others, of variance 1.

    Args:
        cov: covariance of each visit, finite everywhere.
        seen: which labels it has.

    Returns:
        Covariances, label units where seen.

    Errors:
        None.

    Example:
        >>> unit_where_unseen(jnp.array([[[[4.0, 1.0], [1.0, 2.0]]]]), jnp.array([[[True, False]]])).tolist()
        [[[[4.0, 0.0], [0.0, 1.0]]]]
    """
    both = seen[..., :, None] & seen[..., None, :]
    return jnp.where(both, cov, 0.0) + jnp.eye(seen.shape[-1])[None, None] * jnp.where(seen, 0.0, 1.0)[..., None]
