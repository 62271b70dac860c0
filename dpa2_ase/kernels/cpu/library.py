"""Load the compiled kernels: plain C functions on raw pointers, one library per instruction set.

The libraries know nothing of PyTorch, so one build works with any version of it. They are optional: an installation
without a compiler simply has none.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

INTERFACE = 6  # of kernels.cpp; a library left behind by another version is not used
FOLDER = Path(__file__).parent
# what PyTorch says the processor can do -> libraries that run there, best first
_BEST_FIRST = {"AVX512": ("avx512", "avx2", "baseline"), "AVX2": ("avx2", "baseline")}

# arguments of the C functions: n int64, p pointer, d double; a digit repeats; the number of threads comes last
_SIGNATURES = {
    "find_near": "n p d2 p3",
    "pull_back": "n2 p7",
    "environment": "n p7",
    "environment_backward": "n p7",
    "moments": "n p4 n p3 d p2",
    "moments_backward": "n p4 n p3 d p3",
    "three_body": "n p5 n p d p2",
    "three_body_backward": "n p5 n p d p3",
    "trained_moments": "n p8",
    "trained_moments_backward": "n p10",
    "trained_moments_by_table": "n p9",
    "trained_three_body": "n p5 n p d p",
    "trained_three_body_backward": "n p5 n p d p3",
    "trained_three_body_by_table": "n p5 n p d p2",
    "repformer": "p2 n p5",
    "repformer_backward": "p2 n p3 n",
    "descriptor": "p3 n p5",
    "descriptor_backward": "p3 n p5 n",
    "pair_features": "n p8",
    "pair_features_backward": "n p9",
    "edge_moments": "n p n p3",
    "edge_moments_backward": "n p n p5",
    "attend_neighbors": "n p4",
    "attend_neighbors_backward": "n p4",
    "dense": "n p4",
    "dense_backward": "n p4",
    "net": "n2 p4",
    "tanh": "n p",
    "exp": "n p",
}
_TYPES: dict[str, Any] = {"n": ctypes.c_int64, "p": ctypes.c_void_p, "d": ctypes.c_double}
_PRECISION = {torch.float64: "float64", torch.float32: "float32"}
Kernel = Callable[..., None]


class _Threads:
    """PyTorch's number of threads, lent to the kernels while PyTorch itself computes with one.

    PyTorch's threads keep their cores busy for milliseconds after every parallel operation, waiting for the next. Then
    they would take them from the kernels, whose threads they do not know.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self.lent = 0, 1

    def borrow(self) -> None:
        """Take them, or share what somebody else took."""
        with self._lock:
            if self._users == 0:
                self.lent = torch.get_num_threads()
                torch.set_num_threads(1)
            self._users += 1

    def give_back(self) -> None:
        """The last to give back sets PyTorch's number again."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                torch.set_num_threads(self.lent)

    def count(self) -> int:
        """Threads for a kernel."""
        return self.lent if self._users else torch.get_num_threads()


_threads = _Threads()
thread_count = _threads.count


@contextmanager
def borrowed_threads() -> Iterator[None]:
    """Let the kernels have PyTorch's threads while PyTorch computes with one; its number is the same afterwards."""
    _threads.borrow()
    try:
        yield
    finally:
        _threads.give_back()


class Library:
    """One compiled library.

    Parameters
    ----------
    path
        The shared library.

    Raises
    ------
    OSError
        When it cannot be loaded or was built for another version of this package.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = ctypes.CDLL(str(path))
        if self._handle.dpa2_interface() != INTERFACE:
            raise OSError(f"{path.name} belongs to another version of this package; install it again")
        self.vector_bytes: int = self._handle.dpa2_vector_bytes()
        self._kernels: dict[tuple[str, torch.dtype | None], Kernel] = {}

    def __getitem__(self, key: tuple[str, torch.dtype | None]) -> Kernel:
        """The kernel of a name and precision; call it with its arguments but the number of threads, PyTorch's."""
        if key not in self._kernels:
            self._kernels[key] = self._bind(*key)
        return self._kernels[key]

    def _bind(self, name: str, dtype: torch.dtype | None) -> Kernel:
        symbol = f"dpa2_{name}" if dtype is None else f"dpa2_{name}_{_PRECISION[dtype]}"
        function = getattr(self._handle, symbol)
        function.restype = ctypes.c_int
        codes = "".join(code[0] * int(code[1:] or 1) for code in _SIGNATURES[name].split())
        function.argtypes = [*(_TYPES[code] for code in codes), ctypes.c_int]

        def call(*arguments: Any) -> None:
            if function(*arguments, thread_count()):
                raise MemoryError(f"not enough memory for the intermediates of {name}")

        return call


@cache
def load() -> tuple[Library | None, str]:
    """The best library that runs on this processor, or ``None``, and in words which or why not."""
    capability = torch.backends.cpu.get_cpu_capability()
    reasons = []
    for name in _BEST_FIRST.get(capability, ("baseline",)):
        path = _file(name)
        if path is None:
            reasons.append(f"{name} was not built")
            continue
        try:
            return Library(path), f"{name} ({path.name}; processor: {capability})"
        except (OSError, AttributeError) as error:
            reasons.append(f"{name}: {error}")
    return None, "; ".join(reasons)


def _file(name: str) -> Path | None:
    """The shared library of one instruction set, where the build of the package put it."""
    candidates = (FOLDER / f"_{name}{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in candidates if path.exists()), None)


def require() -> Library:
    """The library, or RuntimeError that says why there is none."""
    library, reason = load()
    if library is None:
        raise RuntimeError(f"the compiled kernels are not available: {reason}")
    return library
