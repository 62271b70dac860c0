"""The layers of the package: who imports whom, when optional packages load, and what an import leaves alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import dpa2_ase

PACKAGE = Path(dpa2_ase.__file__).parent
LAYERS = {
    "config": 0, "option_values": 0, "parsing": 0, "ops": 0, "hdf5": 0,
    "neighbors": 1, "neighbor_search": 1, "device_search": 1, "search_box": 1, "graph": 1, "topology": 1,
    "nn": 2,
    "derivatives": 3, "model": 3,
    "checkpoint": 4, "download": 4, "bundled": 4,
    "kernels": 5, "memory": 5,
    "interfaces": 6, "training": 6,
    "cli": 7, "maps": 7, "report": 7, "train": 7, "__init__": 7, "__main__": 7,
    "committee": 7, "uncertainty": 7,
}  # fmt: skip
HIGHEST = {"kernels": 3}  # the highest layer a room may import; its own where nothing is said
LONERS = {"workflows"}  # know ASE and nothing of ours
REQUIRED = {"numpy", "torch", "ase", "matscipy", "scipy", "click", "rich", "yaml"}  # scipy comes with ASE


@dataclass(frozen=True)
class Import:
    """One imported module."""

    source: str  # file, relative to the package
    target: str  # full name
    lazy: bool  # inside a function

    def __str__(self) -> str:
        return f"{self.source} imports {self.target}"


def imports_of(text: str, source: str) -> list[Import]:
    """All imports of a file but those of ``if TYPE_CHECKING``; relative ones spelled in full."""
    found: list[Import] = []
    package = ["dpa2_ase", *Path(source).parent.parts]

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child, lazy)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(source, alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            whole = module == "dpa2_ase" or not node.module  # the names are modules
            found.extend(Import(source, f"{module}.{alias.name}" if whole else module, lazy) for alias in node.names)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, lazy)

    visit(ast.parse(text), False)
    return found


def all_imports() -> list[Import]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [found for path in files for found in imports_of(path.read_text(), path.relative_to(PACKAGE).as_posix())]


def room(name: str) -> str:
    """First part of a path or module name below the package; the package itself is ``__init__``."""
    return (
        (name.removeprefix("dpa2_ase").removeprefix(".").removesuffix(".py").replace("/", ".").split(".")[0])
        or "__init__"
    )


def violations(imports: list[Import]) -> list[str]:
    """Imports that point down the table, and files without a place in it."""
    wrong = []
    for found in imports:
        here = room(found.source)
        if here not in LAYERS and here not in LONERS:
            wrong.append(f"{found.source} has no layer")
        if found.target.split(".")[0] != "dpa2_ase" or found.target == "dpa2_ase.__version__":
            continue
        there = room(found.target)
        if here == there:
            continue
        limit = HIGHEST.get(here, LAYERS.get(here, -1))
        if here in LONERS or (there not in LONERS and LAYERS.get(there, 7) > limit):
            wrong.append(str(found))
        if there in LONERS and LAYERS.get(here, 0) < LAYERS["cli"]:
            wrong.append(str(found))
    return wrong


def cycles(imports: list[Import]) -> list[str]:
    """Rooms that import each other, directly or around."""
    edges: dict[str, set[str]] = {}
    for found in imports:
        if found.target.startswith("dpa2_ase.") and room(found.source) != room(found.target):
            edges.setdefault(room(found.source), set()).add(room(found.target))

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for name in edges.get(todo.pop(), ()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen

    return sorted(name for name in edges if name != "__init__" and name in reached(name))


def test_imports_point_up_the_table():
    imports = all_imports()
    assert len(imports) > 100
    assert violations(imports) == []
    assert cycles([found for found in imports if found.target != "dpa2_ase.__version__"]) == []


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("nn/layers.py", "from ..model import Potential"),
        ("nn/layers.py", "from .. import model"),
        ("nn/layers.py", "def f():\n    from ..kernels.folded import fold"),
        ("graph.py", "import dpa2_ase.nn.layers"),
        ("graph.py", "from dpa2_ase import memory"),
        ("kernels/folded.py", "from ..checkpoint import load_potential"),
        ("workflows/relax.py", "from ..interfaces.ase import DPA2Calculator"),
        ("interfaces/ase.py", "from ..workflows.relax import relax"),
        ("model.py", "from .cli import main"),
        ("helpers.py", "import os"),
    ],
)
def test_a_wrong_import_is_noticed(source, text):
    assert len(violations(imports_of(text, source))) == 1


def test_right_imports_are_not():
    text = "if TYPE_CHECKING:\n    from .model import Potential\nfrom .ops import segment_sum"
    assert violations(imports_of(text, "graph.py")) == []
    assert violations(imports_of("from .workflows.relax import relax", "cli.py")) == []
    mutual = [Import("memory.py", "dpa2_ase.model", True), Import("model.py", "dpa2_ase.memory", False)]
    assert cycles(mutual) == ["memory", "model"]


def test_optional_packages_have_one_home_and_load_late():
    """Inside a function, or at the top of a file that is itself imported inside functions only."""
    imports = all_imports()
    known = REQUIRED | {"dpa2_ase", *sys.stdlib_module_names}
    optional = [found for found in imports if found.target.split(".")[0] not in known]
    homes: dict[str, set[str]] = {}
    for found in optional:
        homes.setdefault(found.target.split(".")[0], set()).add(found.source)
    assert {name: sorted(files) for name, files in homes.items() if len(files) > 1} == {}
    assert "h5py" in homes
    eager = [str(found) for found in optional if not found.lazy and not _loads_late(found.source, imports)]
    assert eager == []


def _loads_late(source: str, imports: list[Import]) -> bool:
    module = "dpa2_ase." + source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    users = [found for found in imports if found.target == module]
    return bool(users) and all(found.lazy for found in users)


def run(code: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light_and_leaves_no_trace():
    code = """
import logging, os, signal, sys, warnings
import numpy as np
def state():
    return (dict(os.environ), logging.getLogger().handlers[:], logging.getLogger().level, warnings.filters[:],
            np.geterr(), os.getcwd(), sys.path[:], signal.getsignal(signal.SIGINT))
import ase.calculators.calculator, matscipy  # what they do is theirs
before = state()
import dpa2_ase
assert state() == before, [pair for pair in zip(before, state()) if pair[0] != pair[1]]
assert logging.getLogger("dpa2_ase").handlers == []
print(sorted({"torch", "h5py", "yaml", "click", "rich", "phonopy", "triton", "matplotlib"} & set(sys.modules)))
"""
    assert run(code) == "[]"


def test_workflows_are_all_at_hand_and_light():
    """Names that are modules as well mean the functions, whichever is imported first."""
    code = """
import sys
from dpa2_ase.workflows.elastic import Elastic
import dpa2_ase.workflows as workflows
from dpa2_ase.workflows import elastic, relax, md, plots
import dpa2_ase.workflows.neb
names = sorted(name for name in workflows.__all__ if not callable(getattr(workflows, name)))
heavy = {"torch", "phonopy", "seekpath", "spglib", "matplotlib", "dftd3", "dpa2_ase.model"} & set(sys.modules)
print(names, sorted(heavy), plots.__name__)
"""
    assert run(code) == "[] [] dpa2_ase.workflows.plots"


@pytest.mark.parametrize("mode", ["auto", "torch"])
def test_making_a_calculator_leaves_no_trace(mode):
    code = """
import logging, os, random
import numpy as np
import torch
def state():
    return (dict(os.environ), torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(),
            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
            logging.getLogger().handlers[:], np.geterr())
before = state()
from ase.build import bulk
from dpa2_ase import DPA2Calculator
atoms = bulk("Cu")
atoms.calc = DPA2Calculator(head="metals-pbe", device="cpu", mode=MODE)
made = state()
atoms.get_forces()
names = "environ dtype threads interop grad deterministic matmul torch_rng rng numpy_rng handlers errors".split()
import sys
costly = sorted({"torch._dynamo", "sympy"} & set(sys.modules))  # half a second each; the first sets variables as well
print([n for n, a, b, c in zip(names, before, made, state()) if not a == b == c] + costly)
"""
    assert run(code.replace("MODE", repr(mode))) == "[]"
