"""Common to all tests: one thread, since the models are far too small to share among several."""

from __future__ import annotations

import pytest
import torch
from browser import open_page  # noqa: F401  # a fixture for all tests


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
