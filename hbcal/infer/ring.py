"""Coordinates in which what shares one scatter, an error scale and a floor or two floors, is nearly independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from hbcal._typing import AnyArray, Array


@dataclass(frozen=True)
class Ring:
    """(log a, n) as (log s, w): e a = e s / cosh w, n = e s tanh w, so that (e a)^2 + n^2 = (e s)^2.

    Where all errors are about e the data know s, and hardly w: an arc in (a e, n), along which NUTS needs steps as
    short as the arc is thin. Here it is straight. |d(log a, n) / d(log s, w)| = e s.

    Attributes:
        scale, floor: sites of the log-normal scales a and of the signed floors n.
        scale_at, floor_at: entries of each pair, (n_pair,).
        error: a typical error e of each pair, the floor's unit, (n_pair,).
    """

    scale: str
    floor: str
    scale_at: AnyArray
    floor_at: AnyArray
    error: AnyArray

    def straight(self, z: Mapping[str, Array]) -> dict[str, Array]:
        """(log s, w) at unconstrained (log a, n), in the places of log a and n.

        Args:
            z: unconstrained values of all sites.

        Returns:
            The same sites, the pairs replaced.

        Errors:
            KeyError when a site is missing.

        Example:
            >>> ring = Ring("a", "n", jnp.array([0]), jnp.array([1]), jnp.array([0.5]))
            >>> z = {"a": jnp.array([0.3]), "n": jnp.array([2.0, -1.0])}
            >>> back, _ = ring.bent(ring.straight(z))
            >>> [bool(jnp.allclose(back[name], z[name])) for name in z]
            [True, True]
        """
        log_a, n = z[self.scale][self.scale_at], z[self.floor][self.floor_at]
        w = jnp.arcsinh(n / (self.error * jnp.exp(log_a)))
        return self._put(z, log_a + _log_cosh(w), w)

    def bent(self, z: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """(log a, n) at (log s, w), and the log of the determinant.

        Args:
            z: as `straight` gives it.

        Returns:
            Unconstrained values of all sites, and log |d(log a, n) / d(log s, w)|, ().

        Errors:
            KeyError when a site is missing.

        Example:
            >>> ring = Ring("a", "n", jnp.array([0]), jnp.array([0]), jnp.array([0.5]))
            >>> z, log_det = ring.bent({"a": jnp.array([0.0]), "n": jnp.array([1.0])})
            >>> float((0.5 * jnp.exp(z["a"][0])) ** 2 + z["n"][0] ** 2), float(jnp.exp(log_det))
            (0.25, 0.5)
        """
        log_s, w = z[self.scale][self.scale_at], z[self.floor][self.floor_at]
        size = self.error * jnp.exp(log_s)
        return self._put(z, log_s - _log_cosh(w), jnp.asarray(size * jnp.tanh(w))), jnp.log(size).sum()

    def _put(self, z: Mapping[str, Array], first: Array, second: Array) -> dict[str, Array]:
        scale = jnp.asarray(z[self.scale]).at[self.scale_at].set(first)
        return {**z, self.scale: scale, self.floor: jnp.asarray(z[self.floor]).at[self.floor_at].set(second)}


@dataclass(frozen=True)
class Arc:
    """Two signed floors (n, m) as (log s, w): n = s / cosh w, m = s tanh w, so that n^2 + m^2 = s^2.

    Where the data know only the sum of two variances: a `Ring` without errors. The sign of n is lost, which does not
    matter for a folded site. |d(n, m) / d(log s, w)| = s^2 / cosh w.

    Attributes:
        floor: site of both.
        first_at, second_at: entries of n and m of each pair, (n_pair,).
    """

    floor: str
    first_at: AnyArray
    second_at: AnyArray

    def straight(self, z: Mapping[str, Array]) -> dict[str, Array]:
        """(log s, w) at unconstrained (n, m), in their places."""
        n, m = jnp.abs(z[self.floor][self.first_at]), z[self.floor][self.second_at]
        return self._put(z, jnp.log(jnp.hypot(n, m)), jnp.arcsinh(m / n))

    def bent(self, z: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """(n, m) at (log s, w), and the log of the determinant."""
        log_s, w = z[self.floor][self.first_at], z[self.floor][self.second_at]
        n, m = jnp.exp(log_s - _log_cosh(w)), jnp.exp(log_s) * jnp.tanh(w)
        return self._put(z, n, m), (2.0 * log_s - _log_cosh(w)).sum()

    def _put(self, z: Mapping[str, Array], first: Array, second: Array) -> dict[str, Array]:
        return {**z, self.floor: jnp.asarray(z[self.floor]).at[self.first_at].set(first).at[self.second_at].set(second)}


@dataclass(frozen=True)
class Chain:
    """Coordinates straightened one after the other: three that share a scatter are a `Ring` upon a `Ring`.

    Attributes:
        links: the first is the first to straighten and the last to bend back.
    """

    links: tuple[Ring | Arc, ...]

    def straight(self, z: Mapping[str, Array]) -> dict[str, Array]:
        """Straightened coordinates."""
        for link in self.links:
            z = link.straight(z)
        return dict(z)

    def bent(self, z: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
        """The unconstrained values, and the log of the determinant."""
        total = jnp.zeros(())
        for link in reversed(self.links):
            z, log_det = link.bent(z)
            total = total + log_det
        return dict(z), total


def _log_cosh(w: Array) -> Array:
    return jnp.logaddexp(w, -w) - jnp.log(2.0)
