"""Compiled kernels for the CPU: twins of the model's blocks that run in C++ on threads of their own."""

from __future__ import annotations


def available() -> tuple[bool, str]:
    """Whether the compiled kernels can be used here, and which library or why not."""
    from .library import load

    library, reason = load()
    return library is not None, reason


def describe() -> dict[str, str]:
    """What to tell a user about the compiled kernels."""
    good, reason = available()
    return {"compiled kernels": reason if good else f"not available: {reason}"}
