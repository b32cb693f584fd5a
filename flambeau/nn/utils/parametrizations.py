"""The parametrizations that PyTorch brings along: weights of a given length, of a bounded gain, or with orthonormal rows."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from flambeau._errors import ShapeError
from flambeau.core.module import Module
from flambeau.nn import init
from flambeau.nn.functional.normalization import normalize
from flambeau.nn.utils._norms import (
    as_matrix,
    default_dim,
    norm_except_dim,
    power_step,
    precise_matmul,
    random_unit,
    weight_of,
)
from flambeau.nn.utils._reparametrize import check_made
from flambeau.nn.utils.parametrize import register_parametrization

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

ModuleT = TypeVar("ModuleT", bound=Module)

_MAPS = ("matrix_exp", "cayley", "householder")


def weight_norm(module: ModuleT, name: str = "weight", dim: int | None = 0) -> ModuleT:
    """Computes a parameter from its length and its direction: w = g · v / ‖v‖.

    They are `parametrizations.<name>.original0` (g) and `original1` (v). State dicts of the older `nn.utils.weight_norm`, with
    `<name>_g` and `<name>_v`, load too.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        dim: the dimension that each has its own length along; None for one length of the whole.

    Raises:
        ValueError: there is no such parameter or buffer.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> from flambeau import nn
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(20, 40))
        >>> layer
        ParametrizedLinear(
          in_features=20, out_features=40, bias=True
          (parametrizations): ModuleDict(
            (weight): ParametrizationList(
              (0): _WeightNorm()
            )
          )
        )
        >>> layer.parametrizations.weight.original0.shape
        (40, 1)

    Source: https://arxiv.org/abs/1602.07868,
    https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrizations.weight_norm.html
    """
    register_parametrization(module, name, _WeightNorm(-1 if dim is None else dim), unsafe=True)
    module.register_load_state_dict_pre_hook(_OlderKeys(name))
    return module


class _WeightNorm(Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, weight_g: jax.Array, weight_v: jax.Array) -> jax.Array:
        return weight_of(weight_g, weight_v, self.dim)

    def right_inverse(self, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        return norm_except_dim(weight, self.dim), weight


class _OlderKeys:
    """The hook that gives the keys of the older weight normalization today's names."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: Module, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        older = [f"{prefix}{self.name}_{letter}" for letter in "gv"]
        if all(key in state_dict for key in older):
            for i, key in enumerate(older):
                state_dict[f"{prefix}parametrizations.{self.name}.original{i}"] = state_dict.pop(key)


def spectral_norm(
    module: ModuleT, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> ModuleT:
    """Divides a parameter by its largest singular value: W / σ(W), as a matrix `(O, rest)`; a vector by its length.

    The power method follows σ: in training mode, each time that the parameter is read. The vectors are in the buffers `_u` and
    `_v` of `parametrizations.<name>[0]`. What reads it several times in one forward does so best within
    `parametrize.cached()`.

    Args:
        module: the module with the parameter, given back.
        name: the parameter's name.
        n_power_iterations: the steps of the power method at each reading.
        eps: the smallest norm to divide by.
        dim: the dimension that counts the outputs; by default 0, but 1 for a transposed convolution.

    Raises:
        ValueError: there is no such parameter or buffer; `n_power_iterations` is not positive.
        IndexError: the parameter has no dimension `dim`.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)).eval()
        >>> bool(jnp.isclose(jnp.linalg.norm(layer.weight, 2), 1, atol=0.1))
        True

    Source: https://arxiv.org/abs/1802.05957,
    https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrizations.spectral_norm.html
    """
    weight = _weight_of(module, name)
    dim = default_dim(module) if dim is None else dim
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


class _SpectralNorm(Module):
    _u: jax.Array
    _v: jax.Array

    def __init__(self, weight: jax.Array, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        if not -weight.ndim <= dim < weight.ndim:
            raise IndexError(f"expected a dimension in [{-weight.ndim}, {weight.ndim - 1}], got {dim}")
        if n_power_iterations <= 0:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}"
            )
        self.dim = dim % weight.ndim
        self.eps = eps
        if weight.ndim > 1:
            self.n_power_iterations = n_power_iterations
            matrix = as_matrix(weight, self.dim)
            rows, columns = matrix.shape
            self.register_buffer("_u", random_unit(rows, weight, eps))
            self.register_buffer("_v", random_unit(columns, weight, eps))
            self._power_method(matrix, 15)

    def _power_method(self, matrix: jax.Array, steps: int) -> None:
        u, v = self._u, self._v
        for _ in range(steps):
            u = power_step(matrix, v, self.eps)
            v = power_step(matrix.conj().T, u, self.eps)
        self._u, self._v = u, v

    def forward(self, weight: jax.Array) -> jax.Array:
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._power_method(matrix, self.n_power_iterations)
        u, v = lax.stop_gradient((self._u, self._v))
        return weight / precise_matmul(u.conj(), precise_matmul(matrix, v))

    def right_inverse(self, value: jax.Array) -> jax.Array:
        return value


def orthogonal(
    module: ModuleT, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> ModuleT:
    """Keeps a matrix orthogonal (a complex one unitary): its columns are orthonormal, or its rows if there are more of these.

    It is computed from the original X, `(..., n, k)` or its transpose if n < k:

        matrix_exp    Q = exp(A)
        cayley        Q = (I - A/2)⁻¹ (I + A/2)          A = L - Lᴴ, of the lower triangle L of X, the first k columns
        householder   Q = H₁ ··· Hₖ D                    Hᵢ reflects along column i of X below the diagonal D, of 1 and -1

    Args:
        module: the module with the matrix, or batch of matrices, given back.
        name: its name.
        orthogonal_map: one of these; by default `matrix_exp` for square or complex matrices, `householder` for others.
        use_trivialization: whether to keep an orthogonal matrix B in the buffer `parametrizations.<name>[0].base`, and to give
            B Q: the original then says how far to go from B, which starts as what was there (or is assigned), made orthogonal.

    Raises:
        ValueError: there is no such parameter or buffer; it is a vector; there is no such map; or it is complex with
            `householder`.
        StateError: inside of a transform, unless the module was made there too.

    Example:
        >>> import jax.numpy as jnp
        >>> from flambeau import nn
        >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(2, 4))
        >>> bool(jnp.allclose(layer.weight.T @ layer.weight, jnp.eye(2), atol=1e-5))
        True

    Source: https://arxiv.org/abs/1909.09501,
    https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.parametrizations.orthogonal.html
    """
    weight = _weight_of(module, name)
    if weight.ndim < 2:
        raise ShapeError(f"Expected a matrix or batch of matrices. Got an array of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square or jnp.iscomplexobj(weight) else "householder"
    if orthogonal_map not in _MAPS:
        raise ValueError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    orth = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return register_parametrization(module, name, orth, unsafe=True)


class _Orthogonal(Module):
    base: jax.Array

    def __init__(self, weight: jax.Array, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        if jnp.iscomplexobj(weight) and orthogonal_map == "householder":
            raise ValueError("The householder parametrization does not support complex arrays.")
        self.shape = weight.shape
        self.orthogonal_map = orthogonal_map
        self.use_trivialization = use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: jax.Array) -> jax.Array:
        wide = x.shape[-2] < x.shape[-1]
        x = x.mT if wide else x  # (..., n, k), n >= k
        q = _reflections(x) if self.orthogonal_map == "householder" else _of_skew(x, self.orthogonal_map)
        if self.use_trivialization:
            q = precise_matmul(self.base, q)
        return q.mT if wide else q

    def right_inverse(self, q: jax.Array) -> jax.Array:
        if q.shape != self.shape:
            raise ShapeError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got an array of shape {q.shape}."
            )
        wide = q.shape[-2] < q.shape[-1]
        tall = q.mT if wide else q  # (..., n, k), n >= k
        if self.use_trivialization:
            self.base = _completed(tall)
            # Of -I, the diagonal of the reflections, every map makes I.
            return jnp.broadcast_to(-jnp.eye(*q.shape[-2:], dtype=q.dtype), q.shape)
        if self.orthogonal_map != "householder":
            raise NotImplementedError(
                "It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
                "use_trivialization=False."
            )
        x = _reflectors(tall)
        return x.mT if wide else x


# The maps are compiled, so that to read such a weight outside of transforms costs one dispatch.


@functools.partial(jax.jit, static_argnums=1)
def _of_skew(x: jax.Array, orthogonal_map: str) -> jax.Array:
    """The first k columns of an orthogonal matrix, from a skew one whose lower triangle is that of `x` `(..., n, k)`."""
    n, k = x.shape[-2:]
    x = jnp.pad(jnp.tril(x), [(0, 0)] * (x.ndim - 1) + [(0, n - k)])  # (..., n, n)
    skew = x - x.mT.conj()
    if orthogonal_map == "matrix_exp":
        q = jax.scipy.linalg.expm(skew)
    else:
        identity = jnp.eye(n, dtype=x.dtype)
        q = jnp.linalg.solve(identity - skew / 2, identity + skew / 2)
    return q[..., :k]


@jax.jit
def _reflections(x: jax.Array) -> jax.Array:
    """H₁ ··· Hₖ D with Hᵢ = I - 2 vᵢ vᵢᵀ / ‖vᵢ‖², vᵢ being column i of `x` below a 1 on the diagonal, and D that of `x`.

    All at once: H₁ ··· Hₖ = I - V S⁻¹ Vᵀ, where S has ‖vᵢ‖² / 2 on its diagonal and above it the inner products of V
    (Joffrain et al., "Accumulating Householder transformations, revisited", 2006).
    """
    n, k = x.shape[-2:]
    start = jnp.eye(n, k, dtype=x.dtype)
    v = jnp.tril(x, -1) + start
    products = precise_matmul(v.mT, v)
    s = jnp.triu(products) - jnp.eye(k, dtype=x.dtype) * products / 2
    top = v[..., :k, :].mT  # Vᵀ times the first k columns of I
    q = start - precise_matmul(v, lax.linalg.triangular_solve(s, top, left_side=True, lower=False))
    signs = lax.stop_gradient(jnp.trunc(jnp.diagonal(x, axis1=-2, axis2=-1)))
    return q * signs[..., None, :]


def _reflectors(q: jax.Array) -> jax.Array:
    """The `x` `(..., n, k)` of which `_reflections` makes the Q of q = Q R with R_ii > 0: `q` itself if it is orthonormal."""
    packed, tau = jnp.linalg.qr(q, mode="raw")
    x = packed.mT  # below the diagonal the reflectors, on it that of R
    signs = jnp.sign(jnp.diagonal(x, axis1=-2, axis2=-1))
    # Where tau is 0, LAPACK reflects not at all, rather than along the diagonal alone.
    signs = jnp.where(tau == 0, -signs, signs)
    return jnp.tril(x, -1) + jnp.triu(x, 1) + jnp.eye(*x.shape[-2:], dtype=x.dtype) * signs[..., None, :]


@jax.jit
def _made_orthogonal(a: jax.Array) -> jax.Array:
    """The Q of a = Q R whose R has a positive diagonal."""
    q, r = jnp.linalg.qr(a)
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _completed(q: jax.Array) -> jax.Array:
    """An orthogonal matrix `(..., n, n)` that begins with the columns of `q` `(..., n, k)`, made orthonormal if need be."""
    n, k = q.shape[-2:]
    if n != k:
        random = init.normal_(jnp.zeros((*q.shape[:-1], n - k), q.dtype))
        return _made_orthogonal(jnp.concatenate([q, random], -1))
    # The tolerances of torch.
    products, tolerance = precise_matmul(q.mT.conj(), q), 10.0 * n * float(jnp.finfo(q.dtype).eps)
    orthogonal = jnp.allclose(products, jnp.eye(n, dtype=q.dtype), 1e-5, tolerance)
    return jnp.where(orthogonal, q, _made_orthogonal(q))


def _weight_of(module: Module, name: str) -> jax.Array:
    weight = getattr(module, name, None)
    if weight is not None:
        check_made(weight, name, "a parametrization")
    if not isinstance(weight, jax.Array):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return weight
