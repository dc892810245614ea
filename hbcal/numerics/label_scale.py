"""How well reported labels pin the scale on which an emulator's labels are."""

from __future__ import annotations

import numpy as np

from hbcal._typing import Float

RIDGE = 1e-10
AT_ONCE = 4096  # stars: bounds memory


def label_scale(
    terms: Float[np.ndarray, "n_star n_term"], features: np.ndarray, slope: np.ndarray, gram: np.ndarray,
    weight: np.ndarray, told: np.ndarray, off: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The change of the label scale that the reported labels ask for, and its covariance.

    Labels and weights are both unknown while an emulator is trained, so that the labels x of all stars may move to
    x + D psi(x) if the weights follow. What the weights can follow is free: only the reported labels object. What they
    cannot, since w' phi(x) has no such feature, is seen by the spectra. Star i with slope J_i = d phi / d x,
    information of the pixels G_i = sum_p w_p w_p' / v_ip, H_i = J_i' G_i J_i and reported labels' precision L_i:

        T_i D = J_i D psi_i less its projection on phi,     s_i D = H_i^-1 J_i' G_i T_i D
        precision of D = sum_i T_i' G_i T_i - s_i' H_i s_i + (Psi_i - s_i)' (H_i^-1 + L_i^-1)^-1 (Psi_i - s_i)

    Args:
        terms: psi_i.
        features: phi_i, (n_star, n_feature).
        slope: J_i, (n_star, n_feature, n_label).
        gram: G_i, (n_star, n_feature, n_feature).
        weight: of a star in the fit of the weights, (n_star,).
        told: the diagonal of L_i, 0 where a label is missing, (n_star, n_label).
        off: reported labels less those that the spectrum tells, (n_star, n_label).

    Returns:
        How far each star's labels move, (n_star, n_label); D and its covariance, (n_label, n_term),
        (n_label, n_term, n_label, n_term).

    Errors:
        None.

    Example:
        >>> one = np.ones((100, 1))
        >>> square = one[..., None]
        >>> moved, d, cov = label_scale(one, one, square, 1e6 * square, one[:, 0], 25.0 * one, 0.3 * one)
        >>> round(float(d[0, 0]), 3), round(float(cov[0, 0, 0, 0] ** 0.5), 3)  # errors of 0.2, a hundred stars
        (0.3, 0.02)

    Source: Gauss-Newton in weights, labels and scale at once, weights and labels eliminated.
    """
    n_star, n_term = terms.shape
    n_label = slope.shape[2]
    n_move = n_label * n_term
    blocks = [slice(first, first + AT_ONCE) for first in range(0, n_star, AT_ONCE)]

    def reach(of: slice) -> np.ndarray:
        """J_i D psi_i, for every number of D, (n_star, n_feature, n_move)."""
        each = slope[of][:, :, :, None] * terms[of][:, None, None, :]
        return each.reshape(len(each), slope.shape[1], n_move)

    weighed = features * weight[:, None]
    gram_all = weighed.T @ features
    follows = sum(np.tensordot(weighed[of], reach(of), (0, 0)).reshape(len(gram_all), -1) for of in blocks)
    follow = np.linalg.solve(gram_all + RIDGE * np.trace(gram_all) * np.eye(len(gram_all)), follows)
    follow = follow.reshape(len(gram_all), slope.shape[1], n_move)

    def seen_and_heard(of: slice) -> tuple[np.ndarray, ...]:
        """T_i, G_i T_i, s_i, Psi_i - s_i, H_i, and (H_i^-1 + L_i^-1)^-1."""
        part = reach(of) - np.einsum("if,fgm->igm", features[of], follow)
        pulled = gram[of] @ part
        info = np.swapaxes(slope[of], 1, 2) @ gram[of] @ slope[of]
        info += RIDGE * np.einsum("ill->i", info)[:, None, None] * np.eye(n_label) + 1e-300
        seen = np.linalg.solve(info, np.swapaxes(slope[of], 1, 2) @ pulled)
        psi = (np.eye(n_label)[None, :, :, None] * terms[of][:, None, None, :]).reshape(len(info), n_label, n_move)
        own = told[of][:, :, None] * np.eye(n_label)
        return part, pulled, seen, psi - seen, info, info @ np.linalg.solve(info + own, own)

    add = lambda a, b: a.reshape(-1, n_move).T @ b.reshape(-1, n_move)  # noqa: E731
    precision, asked = np.zeros((n_move, n_move)), np.zeros(n_move)
    for of in blocks:
        part, pulled, seen, heard, info, both = seen_and_heard(of)
        precision += add(part, pulled) - add(seen, info @ seen) + add(heard, both @ heard)
        asked += np.einsum("ilm,ilk,ik->m", heard, both, off[of])
    size = np.sqrt(np.diagonal(precision))
    cov = np.linalg.inv(precision / np.outer(size, size) + RIDGE * np.eye(n_move)) / np.outer(size, size)
    move = cov @ asked
    moved = np.concatenate([seen_and_heard(of)[3] @ move for of in blocks])
    return moved, move.reshape(n_label, n_term), cov.reshape(n_label, n_term, n_label, n_term)
