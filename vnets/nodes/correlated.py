"""Normal weights that vary together, within a tensor and from one to another.

What the walk of an optimizer (`vnets.swag`) and the curvature of a loss
(`vnets.laplace`) say of a posterior.
"""

import jax.numpy as jnp
from jax import random
from jax.scipy.linalg import solve_triangular

from vnets import noise as noises
from vnets.nodes.base import LOG_FLOOR, Posterior, node_type, static
from vnets.nodes.weights import Noisy
from vnets.rng import stream
from vnets.types import Array, Key, Shape


class _Together(Noisy):
    """A mean with normal noise that weights have in common."""

    mean: Array
    noise = "correlated"

    @property
    def shape(self) -> Shape:
        return self.mean.shape

    def log_variance(self) -> Array:
        return jnp.log(self.moments()[1])

    def shared_log_alpha(self) -> Array:
        held = self.log_variance() - jnp.log(jnp.square(self.mean) + LOG_FLOOR)
        return jnp.where(self.pruned(), jnp.inf, held)

    def pruned(self) -> Array:
        mean, var = self.moments()
        return (mean == 0) & (var == 0)

    def with_mean(self, mean: Array):
        return self._with(mean=mean)


@node_type
class Correlated(_Together):
    """mean + std * noise + sum over r of z_r factor_r, noise and z normal.

    The z are shared by all such nodes of a tree where it is drawn as a whole
    (`edits.draw`, the `draw` of a `predictor.Predictor`). `sample`, and so an
    estimator, draws each tensor by itself: right for that one alone.

    Attributes:
      mean: [..., I, O], or [O] of a bias.
      std: of what is each weight's own, of the same shape.
      factor: R directions of all weights together, [R, ..., I, O].
    """

    mean: Array
    std: Array
    factor: Array

    def moments(self):
        var = jnp.square(self.std) + jnp.sum(jnp.square(self.factor), 0)
        return self.mean, var

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        return self.drawn(stream(key, "own"), stream(key, "shared"), batch)

    def drawn(self, key: Key, shared: Key, batch: Shape = ()) -> Array:
        own = random.normal(key, (*batch, *self.shape), self.mean.dtype)
        z = random.normal(shared, (*batch, len(self.factor)), self.mean.dtype)
        ones = (1,) * len(batch)
        mean, std = (x.reshape(ones + x.shape) for x in (self.mean, self.std))
        return mean + std * own + jnp.tensordot(z, self.factor, 1)

    def kept(self, keep: Array) -> "Correlated":
        factor = jnp.where(jnp.broadcast_to(keep, self.shape)[None], self.factor, 0)
        mean, std = (jnp.where(keep, x, 0) for x in (self.mean, self.std))
        return self._with(mean=mean, std=std, factor=factor)

    def quieter(self, factor: float) -> "Correlated":
        return self._with(std=self.std * factor, factor=self.factor * factor)


@node_type
class MatrixNormal(_Together):
    """mean + row_factor Z col_factor^T, Z [R, C] of independent normal numbers.

    With U = row_factor row_factor^T and V = col_factor col_factor^T the covariance of
    w_ij and w_kl is U_ik V_jl: a Kronecker product. No weight of it can be pruned by
    itself.

    Attributes:
      mean: [..., I, O]; all axes but the last are one, of rows. A bias [O] is one row.
      row_factor: [rows, R], R at least the rows.
      col_factor: [O, C], C at least O.
      group: nodes of one name share Z where a tree is drawn as a whole, as the weight
        and the bias of a layer do: rows of one matrix. `sample` draws each by itself.
        Such a node has no density and no KL of its own. "" shares with none.
    """

    mean: Array
    row_factor: Array
    col_factor: Array
    group: str = static(default="")

    def moments(self):
        rows, cols = (
            jnp.sum(jnp.square(x), -1) for x in (self.row_factor, self.col_factor)
        )
        return self.mean, jnp.outer(rows, cols).reshape(self.shape)

    def sample(self, key: Key, batch: Shape = ()) -> Array:
        size = (self.row_factor.shape[-1], self.col_factor.shape[-1])
        z = random.normal(key, (*batch, *size), self.mean.dtype)
        noise = jnp.einsum("...rc,ir,oc->...io", z, self.row_factor, self.col_factor)
        mean = self.mean.reshape((1,) * len(batch) + self.shape)
        return mean + noise.reshape(*batch, *self.shape)

    def drawn(self, key: Key, shared: Key) -> Array:
        return self.sample(stream(shared, self.group) if self.group else key)

    def log_prob(self, value: Array) -> Array:
        """See `Posterior`; only the sum over all weights is a log density, that of the
        matrix."""
        rows, cols = self._roots()
        z = _whitened(rows, cols, value - self.mean).reshape(self.shape)
        log_std = self._log_volume(rows, cols) / self.mean.size
        return noises.log_density("normal")(z) - log_std

    def kl_from(self, prior: Posterior) -> Array | None:
        joint = isinstance(prior, MatrixNormal)
        if not (joint or prior.is_normal):
            return None
        mean, var = self.moments()
        rows, cols = self._roots()
        if joint:
            wide_rows, wide_cols = prior._roots()
            log_wide = self._log_volume(wide_rows, wide_cols)
            gap = _whitened(wide_rows, wide_cols, mean - prior.mean)
            # The trace of a Kronecker product is that of its factors, multiplied.
            spread = _square_sum(solve_triangular(wide_rows, rows, lower=True))
            spread *= _square_sum(solve_triangular(wide_cols, cols, lower=True))
            second = _square_sum(gap) + spread
        else:
            center, wide = prior.moments()
            gap = mean if center is None else mean - center
            second = jnp.sum((jnp.square(gap) + var) / wide)
            log_wide = 0.5 * jnp.sum(jnp.log(wide))
        return 0.5 * (second - var.size) + log_wide - self._log_volume(rows, cols)

    def quieter(self, factor: float) -> "MatrixNormal":
        return self._with(row_factor=self.row_factor * factor)

    def _roots(self) -> tuple[Array, Array]:
        """Triangles L with L L^T = U and V.

        Raises:
          TypeError: a node whose noise is that of others, too.
        """
        if self.group:
            raise TypeError(
                "a MatrixNormal that shares its noise with others (group "
                f"{self.group!r}) has no density and no KL of its own"
            )
        factors = self.row_factor, self.col_factor
        rows, cols = (jnp.linalg.qr(x.T, mode="r").T for x in factors)
        return rows, cols

    def _log_volume(self, rows: Array, cols: Array) -> Array:
        """Half of the log determinant of a covariance of this shape."""
        each = [jnp.sum(jnp.log(jnp.abs(jnp.diag(x)))) for x in (rows, cols)]
        return len(cols) * each[0] + len(rows) * each[1]


def _whitened(rows: Array, cols: Array, gap: Array) -> Array:
    """rows^-1 gap cols^-T, [rows, O]."""
    z = solve_triangular(rows, gap.reshape(len(rows), -1), lower=True)
    return solve_triangular(cols, z.T, lower=True).T


def _square_sum(x: Array) -> Array:
    return jnp.sum(jnp.square(x))
