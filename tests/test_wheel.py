"""What the wheel and the source distribution hold, and that the wheel works elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_BYTES = 5 * 2**20

SMOKE = """
import numpy as np, apportion as ap
r = ap.Rollouts.from_padded(np.ones((2, 3)), group_ids=["g", "g"], outcome_rewards=[1.0, 0.0])
a = ap.credit("rloo", r).to_padded()
assert (a == [[1, 1, 1], [-1, -1, -1]]).all(), a
print(ap.__version__)
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh wheel and a fresh source distribution."""
    out = tmp_path_factory.mktemp("dist")
    for command in (["build", "--release"], ["sdist"]):
        maturin = [sys.executable, "-m", "maturin", *command, "--out", str(out)]
        subprocess.run(maturin, cwd=ROOT, check=True, capture_output=True)
    return out


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_wheel_contents(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name
    assert wheel.stat().st_size <= MAX_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "__init__.py",
        "py.typed",
        "_core.pyi",
        "kernels/__init__.py",
        "kernels/reference/losses.py",
        "kernels/triton/row.py",
        "report/assets/base.js",
        "trees/assets/trees.js",
    ):
        assert f"apportion/{needed}" in names
    assert any(name.startswith("apportion/data/rollouts") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".libs"))} == {"apportion"}


def test_wheel_needs_numpy_alone(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
    lines = archive.read(metadata).decode().splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert len(needs) == 1 and "numpy" in needs[0]
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra:")}
    assert {"cli", "torch", "trl", "report", "dev"} <= extras


def test_sdist_contents(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        "Cargo.toml",
        "pyproject.toml",
        "LICENSE",
        "rust/core/src/lib.rs",
        "rust/py/src/lib.rs",
    ):
        assert needed in names
    assert any(name.endswith("kernels/__init__.py") for name in names)


def interpreters() -> list[str]:
    """Other CPythons on this machine, oldest and newest supported among them."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for version in ("3.10", "3.12", "3.13"):
        paths = [shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python{version}")]
        working = [str(path) for path in paths if path and _is(str(path), version)]
        found.extend(working[:1])
    return found


def _is(path: str, version: str) -> bool:
    """Whether the command runs; version managers leave stubs that do not."""
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    out = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return out.stdout.strip() == version


@pytest.mark.parametrize("python", interpreters(), ids=lambda path: Path(path).name)
def test_same_wheel_on_other_interpreters(python: str, wheel: Path, tmp_path: Path) -> None:
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    own = tmp_path / "venv" / "bin" / "python"
    install = [own, "-m", "pip", "install", "--quiet", "--prefer-binary", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    out = subprocess.run([own, "-c", SMOKE], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
