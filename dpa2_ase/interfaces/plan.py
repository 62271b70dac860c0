"""What an evaluation will need, told before it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MIB, GIB = 1024.0**2, 1024.0**3


@dataclass(frozen=True)
class Plan:
    """Peak memory of energy, forces and stress of one structure, above that of the process with the model loaded."""

    n_atoms: int
    n_edges: int  # pairs within the cutoff of the model, both directions counted
    mode: str  # the path taken: "reference", "torch" or "kernels"
    dtype: str
    terms: Mapping[str, float] = field(repr=False)  # what takes memory -> bytes
    memory: float | None  # bytes there are; None where that cannot be told
    copies: int | None  # of the structure side by side that would fit into them

    @property
    def peak_bytes(self) -> float:
        """The predicted peak."""
        return sum(self.terms.values())

    @property
    def fits(self) -> bool | None:
        """Whether the prediction is within the memory."""
        return None if self.memory is None else self.peak_bytes <= self.memory

    def __str__(self) -> str:
        each = self.peak_bytes / max(self.n_atoms, 1) / 1024
        lines = [
            f"{self.n_atoms} atoms, {self.n_edges} pairs, mode {self.mode}, {self.dtype}",
            f"peak memory {_readable(self.peak_bytes)} ({each:.0f} KiB per atom)",
        ]
        for name, size in sorted(self.terms.items(), key=lambda term: -term[1]):
            lines.append(f"  {name}: {_readable(size)}")
        if self.memory is not None and self.copies is not None:
            largest = f"{self.copies} times this structure ({self.copies * self.n_atoms} atoms)"
            lines.append(f"{_readable(self.memory)} hold {largest if self.copies else 'less than this structure'}")
        return "\n".join(lines)


def _readable(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def largest_copies(peak: Callable[[int], float], memory: float) -> int:
    """Largest number of copies whose `peak` (bytes) is within `memory`."""
    low, high = 0, 1
    while peak(high) <= memory and high < 2**40:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= memory else (low, middle)
    return low


def available_memory(device: torch.device) -> float | None:
    """Bytes that can still be allocated on `device` without swapping; ``None`` where that cannot be told."""
    if device.type == "cuda":
        import torch

        return float(torch.cuda.mem_get_info(device)[0])
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(float(line.split()[1]) * 1024)
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():  # a container's; "max" where there is none
        kept = dict(line.split() for line in _lines("/sys/fs/cgroup/memory.stat")).get("inactive_file", 0)
        found.append(float(limit[0]) - float(used[0]) + float(kept))  # pages of files make room when they have to
    from ..kernels.cpu.blocks import blocks  # which are there for whoever comes

    return max(min(found), 0.0) + blocks.held if found else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
