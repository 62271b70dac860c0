"""What an installation contains, and what README promises of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from click.testing import CliRunner

import dpa2_ase
from dpa2_ase.cli import main
from dpa2_ase.kernels.cpu import available

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def packages_on_disk() -> set[str]:
    folders = {path.parent for path in (ROOT / "dpa2_ase").rglob("*.py")}
    return {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_every_package_is_listed():
    settings = PROJECT["tool"]["setuptools"]
    assert set(settings["packages"]) == packages_on_disk() | {"dpa2_ase.data"}
    assert len(settings["packages"]) == len(set(settings["packages"]))
    assert settings["package-dir"]["dpa2_ase.data"] == "data"


def test_one_version():
    assert PROJECT["project"]["version"] == dpa2_ase.__version__


def test_kernels_were_compiled_where_there_is_a_compiler():
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        assert available()[0], f"{available()[1]}; install the package again with pip install -e ."


def test_wheel_without_a_compiler_holds_code_model_and_structures(tmp_path):
    """Built by setuptools itself from a copy, so that nothing is left behind here and no network is needed."""
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for folder in ("dpa2_ase", "data"):
        shutil.copytree(ROOT / folder, source / folder, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheels.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    no_compiler = os.environ | {"CC": "false", "CXX": "false"}
    built = subprocess.run(
        [sys.executable, "-c", code], cwd=source, env=no_compiler, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    assert f"-{dpa2_ase.__version__}-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        stored = {name: archive.read(name) for name in archive.namelist()}
    for path in (*source.glob("dpa2_ase/**/*.py"), source / "dpa2_ase" / "py.typed"):
        assert stored[path.relative_to(source).as_posix()] == path.read_bytes()
    for path in (source / "data").iterdir():
        assert stored[f"dpa2_ase/data/{path.name}"] == path.read_bytes()
    assert not [name for name in stored if name.startswith("tests")]
    assert any(name.endswith("licenses/LICENSE") for name in stored)
    (entry_points,) = [text for name, text in stored.items() if name.endswith("entry_points.txt")]
    assert b"dpa2 = dpa2_ase.cli:main" in entry_points
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    code = (
        "import dpa2_ase; from dpa2_ase.bundled import bundled_model; from dpa2_ase.kernels.cpu import available;"
        "print(dpa2_ase.__file__, bundled_model(), *available())"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    folder = unpacked / "dpa2_ase"
    assert found[:2] == [str(folder / "__init__.py"), str(folder / "data" / "dpa2-multitask.pt")]
    assert found[2] == "False"
    assert " ".join(found[3:]).endswith("baseline was not built")


def test_readme_commands_are_those_that_ci_runs():
    first, second = (block.strip() for block in blocks("bash")[:2])
    assert first.startswith("python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/dpa2 ")
    assert second == 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest'
    assert README.count("-m pytest") == 1  # CI takes the first line that has it
    if (ROOT / ".ci" / "run").exists():
        script = (ROOT / ".ci" / "run").read_text()
        assert "grep -m1 -- '-m pytest' README.md" in script
        assert "${command%%&& .venv/bin/python*}" in script


def test_readme_command_in_this_environment(tmp_path, monkeypatch):
    """The first block without its installation."""
    command = blocks("bash")[0].strip().rpartition(".venv/bin/dpa2 ")[2].split()
    command = [str(ROOT / word) if word.startswith("data/") else word for word in command]
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, command).exit_code == 0
    assert (tmp_path / "cu-vacancy-relax" / "relaxed.extxyz").exists()


def test_readme_example_runs_as_it_stands(tmp_path):
    for block in blocks("python"):
        subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", block], cwd=tmp_path, check=True)


def test_commands_in_readme_exist():
    assert set(main.commands) == set(re.findall(r"^\| `dpa2 ([\w-]+)", README, flags=re.MULTILINE))


def test_every_file_in_data_has_an_origin():
    listed = re.findall(r"^\| `([^`]+)` \|", (ROOT / "data" / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "data").iterdir() if path.name != "README.md")
