"""`Projection`: a map of two dimensions, which new points can be put on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..checkpoint.writing import replacing
from .pca import PrincipalComponents, principal_components

Method = Literal["tsne", "pca", "umap"]
METHODS: tuple[str, ...] = get_args(Method)
INPUT_WIDTH = 50  # principal components that t-SNE and UMAP look at
PERPLEXITY = 30.0
PACKAGES = {"tsne": ("openTSNE", 'pip install "dpa2-ase[maps]"'), "umap": ("umap", 'pip install "dpa2-ase[umap]"')}


@dataclass(frozen=True, eq=False)
class Projection:
    """N points of a map, and all that is needed to put others beside them.

    t-SNE and UMAP keep near what is near; distances between clusters, their sizes and the axes mean nothing there. PCA
    is linear: distances on it are never larger than in the representation.
    """

    method: Method
    coordinates: np.ndarray  # (N, 2)
    components: PrincipalComponents
    reference: np.ndarray  # (N, K) principal components of the points
    perplexity: float = PERPLEXITY  # also the number of neighbors of UMAP
    seed: int = 0
    about: dict[str, str] = field(default_factory=dict)  # model, layer: what belongs on the same map

    def transform(self, vectors: np.ndarray) -> np.ndarray:
        """Coordinates (K, 2) of new representations (K, C); the map does not move.

        Raises
        ------
        ValueError
            For vectors of another length than those the map was made of.
        """
        vectors = np.asarray(vectors)
        width = self.components.directions.shape[1]
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise ValueError(
                f"this map was made of vectors of {width} numbers, found shape {vectors.shape}; use its model and layer"
            )
        if not len(vectors):
            return np.zeros((0, 2))
        reduced = self.components.transform(vectors)
        if self.method == "pca":
            return reduced[:, :2]
        require(self.method)
        if self.method == "tsne":
            from . import tsne

            return tsne.place(reduced, self.reference, self.coordinates, perplexity=self.perplexity, seed=self.seed)
        from . import umap

        return umap.place(reduced, self.reference, self.coordinates, neighbors=int(self.perplexity), seed=self.seed)

    def save(self, path: str | Path, more: Mapping[str, np.ndarray] | None = None) -> Path:
        """Write to an ``.npz`` file, with `more` arrays beside what `load` reads."""
        content: dict[str, Any] = {
            "method": np.array(self.method),
            "coordinates": self.coordinates,
            "mean": self.components.mean,
            "directions": self.components.directions,
            "variances": self.components.variances,
            "total": np.array(self.components.total),
            "reference": self.reference,
            "perplexity": np.array(self.perplexity),
            "seed": np.array(self.seed),
            **{f"about:{name}": np.array(value) for name, value in self.about.items()},
            **(more or {}),
        }
        path = Path(path)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **content)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Read what `save` wrote; nothing in the file is executed.

        Raises
        ------
        ValueError
            For a file that is no map.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                components = PrincipalComponents(
                    stored["mean"], stored["directions"], stored["variances"], float(stored["total"])
                )
                return cls(
                    method=str(stored["method"]),  # type: ignore[arg-type]  # written by `save`
                    coordinates=stored["coordinates"],
                    components=components,
                    reference=stored["reference"],
                    perplexity=float(stored["perplexity"]),
                    seed=int(stored["seed"]),
                    about={k.removeprefix("about:"): str(stored[k]) for k in stored.files if k.startswith("about:")},
                )
        except (KeyError, ValueError, EOFError, TypeError) as error:
            raise ValueError(f"{path} is not a map written by Projection.save or dpa2 map ({error})") from error


def project(
    vectors: np.ndarray, method: Method = "tsne", *, perplexity: float | None = None, seed: int = 0
) -> Projection:
    """Make a map of representations.

    Parameters
    ----------
    vectors
        Shape (N, C). Points that are equal to the last bit are fine.
    method
        ``"tsne"`` (needs openTSNE), ``"umap"`` (needs umap-learn), or ``"pca"``.
    perplexity
        How many neighbors t-SNE (and UMAP) keep a point close to; by default 30, or what fits fewer points.
    seed
        Equal seeds give equal maps.

    Raises
    ------
    ValueError
        For an unknown method, and for too few points for the perplexity.
    ModuleNotFoundError
        Without the package; the message says which.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    vectors = np.asarray(vectors)
    chosen = _perplexity(len(vectors), perplexity, method)
    require(method)
    components = principal_components([vectors], min(INPUT_WIDTH, vectors.shape[1]))
    reduced = components.transform(vectors)
    if method == "pca":
        coordinates = reduced[:, :2]
    elif method == "tsne":
        from . import tsne

        coordinates = tsne.embed(reduced, perplexity=chosen, seed=seed)
    else:
        from . import umap

        coordinates = umap.embed(reduced, neighbors=int(chosen), seed=seed)
    if coordinates.shape[1] < 2:
        coordinates = np.pad(coordinates, ((0, 0), (0, 2 - coordinates.shape[1])))
    return Projection(method, coordinates, components, reduced, chosen, seed)


def _perplexity(n_points: int, asked: float | None, method: str) -> float:
    if method == "pca":
        return PERPLEXITY
    largest = (n_points - 1) / 3
    if largest < 2:
        raise ValueError(f"{method} needs 7 points or more, found {n_points}; use method 'pca' or more structures")
    if asked is None:
        return min(PERPLEXITY, largest)
    if not 2 <= asked <= largest:
        raise ValueError(
            f"perplexity {asked:g} should be 2 to {largest:g} for {n_points} points (a third of them); "
            "lower it, add structures, or use method 'pca'"
        )
    return float(asked)


def require(method: str) -> None:
    """Raise ModuleNotFoundError, which says what to install, where a method lacks its package."""
    from importlib.util import find_spec

    if method not in PACKAGES:
        return
    package, command = PACKAGES[method]
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"method {method!r} needs {package}; install it with: {command}")
