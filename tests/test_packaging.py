"""The wheel: exactly the three packages, and it works away from this checkout."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pallas_kernels", "sparsevdit_jax", "models")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tree, with the environment's setuptools (no network)."""
    source = tmp_path_factory.mktemp("source")
    for package in (*PACKAGES, "tests", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__", "*.npz", "results", "checkpoints")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import setuptools.build_meta as b; print(b.build_wheel('dist'))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", build], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return source / "dist" / done.stdout.split()[-1]


def metadata_folder(wheel: Path) -> str:
    """sparsevdit_jax-VERSION.dist-info"""
    return "-".join(wheel.name.split("-")[:2]) + ".dist-info"


def test_wheel_holds_exactly_the_three_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, metadata_folder(wheel)}
    modules = {name for name in names if name.endswith(".py")}
    assert modules == {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


def test_wheel_names_its_licence_and_needs_no_gpu_package(wheel):
    archive = zipfile.ZipFile(wheel)
    folder = metadata_folder(wheel)
    assert f"{folder}/licenses/LICENSE" in archive.namelist()
    metadata = archive.read(f"{folder}/METADATA").decode()
    header = metadata.partition("\n\n")[0].splitlines()
    assert "License-Expression: Apache-2.0" in header
    required = {
        re.match(r"Requires-Dist: ([\w-]+)", row).group(1)
        for row in header
        if row.startswith("Requires-Dist") and "extra ==" not in row
    }
    assert required == {"jax", "flax", "numpy", "safetensors", "jaxtyping", "scipy"}


def test_the_citation_names_the_version_and_the_licence():
    citation = (ROOT / ".github" / "CITATION.cff").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.*)"$', project, re.MULTILINE).group(1)
    assert f"\nversion: {version}\n" in citation
    assert "\nlicense: Apache-2.0\n" in citation
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cited = re.findall(r"value: arXiv:(\S+)", citation)
    assert cited
    assert all(paper in readme for paper in cited)


def test_the_readmes_first_example_runs_from_the_wheel_elsewhere(wheel, tmp_path):
    packages, empty = tmp_path / "packages", tmp_path / "empty"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    empty.mkdir()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.partition("```python\n")[2].partition("```")[0]
    program = f"""
import sys
sys.path.insert(0, {str(packages)!r})
{example}
import models
import pallas_kernels
print(pallas_kernels.__file__, models.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=empty, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said, *files = done.stdout.rsplit(maxsplit=2)
    assert "density of each head:" in said
    assert all(Path(file).is_relative_to(packages) for file in files), files
    assert not list(empty.iterdir())
