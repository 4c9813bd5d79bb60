"""Facts about the tree that no linter checks (contracts between imports: pyproject.toml)."""

import ast
import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

import models
import pallas_kernels
import sparsevdit_jax

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pallas_kernels", "sparsevdit_jax", "models")
TOP_LEVEL = {
    *PACKAGES,
    "tests",
    "experiments",
    "pyproject.toml",
    "README.md",
    "Makefile",
    "LICENSE",
    "constraints-py311.txt",
    "constraints-py312.txt",
}
MAY_IMPORT_TORCH: dict[str, str] = {  # lazily, where it is installed -> why
    "experiments/gpu_check/torch_baselines.py": "times torch beside our kernels",
    "experiments/make_text_embeddings.py": "runs text encoders that have no JAX port",
}
HARD_CAP, SOFT_CAP = 600, 300  # lines of a Python file
LONG_FILES: dict[str, str] = {  # files over the soft cap -> why they are better in one piece
    "tests/experiments/demo/test_demo_page.py": "one page, with the fixture that all its parts are cut from",
    "tests/experiments/generation/test_request.py": "one request, with the fixtures that all its refusals are asked by",
    "experiments/readme_tables.py": "every table of the READMEs, a few lines each",
    "pallas_kernels/block_sparse_attention/mosaic_gpu_kernel.py": "one kernel, its warps in step",
    "pallas_kernels/block_sparse_attention/mosaic_gpu_vjp.py": "one kernel and what chooses its shape",
}


def project_files() -> list[Path]:
    """Everything that git tracks or would track, relative to the root."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    files = [Path(line) for line in listed.splitlines() if (ROOT / line).is_file()]
    assert files, f"git lists no files in {ROOT}; run the tests in a clone"
    return files


FILES = project_files()
PYTHON = [path for path in FILES if path.suffix == ".py"]


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def has_logic(path: Path) -> bool:
    """Whether a file defines a function or a class of its own."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, definitions) for node in parse(path).body)


def test_top_level_holds_only_the_agreed_names():
    names = {path.parts[0] for path in FILES}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_every_file_with_logic_has_a_mirrored_test():
    absent = []
    for path in PYTHON:
        if path.parts[0] in PACKAGES and path.name != "__init__.py" and has_logic(path):
            mirror = Path("tests", *path.parts[:-1], f"test_{path.name.lstrip('_')}")
            if mirror not in FILES:
                absent.append(f"{path} -> {mirror}")
    assert not absent, "files without a test:\n" + "\n".join(absent)


def test_every_directory_of_tests_is_a_package():
    # Without it, tests/models would take the place of models (whichever import mode pytest uses).
    absent = {
        parent
        for path in PYTHON
        if path.parts[0] == "tests"
        for parent in path.parents
        if parent != Path(".") and parent / "__init__.py" not in FILES
    }
    assert not absent


def test_package_inits_only_reexport():
    for path in PYTHON:
        if path.parts[0] in PACKAGES and path.name == "__init__.py":
            for node in parse(path).body:
                is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                assert is_docstring or isinstance(node, ast.Import | ast.ImportFrom), (
                    f"{path}:{node.lineno} does something at import; __init__ only re-exports"
                )


def test_files_stay_short():
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in PYTHON}
    too_long = {str(path): count for path, count in lines.items() if count > HARD_CAP}
    assert not too_long, f"over {HARD_CAP} lines: {too_long}"
    long = {str(path): count for path, count in lines.items() if count > SOFT_CAP}
    unexplained = {path: count for path, count in long.items() if path not in LONG_FILES}
    assert not unexplained, f"over {SOFT_CAP} lines, without a reason in LONG_FILES: {unexplained}"
    assert set(LONG_FILES) <= set(long), "LONG_FILES names files that are short now"


def test_no_module_is_a_drawer_for_anything():
    drawers = {"utils.py", "common.py", "helpers.py"}
    assert not [str(path) for path in PYTHON if path.name in drawers and path.parts[0] != "tests"]


def test_torch_is_imported_only_where_it_is_the_point():
    assert set(MAY_IMPORT_TORCH) <= {str(path) for path in PYTHON}
    for path in PYTHON:
        tree = parse(path)
        if str(path) in MAY_IMPORT_TORCH:
            nodes = tree.body  # only inside functions: these files are imported without torch, too
        else:
            nodes = ast.walk(tree)
        for node in nodes:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert not [name for name in names if name.split(".")[0] == "torch"], (
                f"{path}:{node.lineno} imports torch; compare with committed numbers instead"
            )


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of someone's machine", r"(?<![\w.])/(?:work|root|farm|Users|home)/[\w.-]+"),
        (
            "a package index",
            r"pypi\.(?:org|python)|pythonhosted|registry\.(?:npm|yarn)|--(?:extra-)?index-url"
            r"|--find-links|^-i http",
        ),
    ],
)
def test_no_tracked_file_names(what, pattern):
    found = []
    for path in FILES:
        if path == Path(__file__).relative_to(ROOT):
            continue  # the patterns stand here
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, a checkpoint, golden numbers
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path}:{number}: {line[:100]}")
    assert not found, f"{what}:\n" + "\n".join(found)


def test_constraints_pin_every_version_and_nothing_else():
    for path in ("constraints-py311.txt", "constraints-py312.txt"):
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", pin) for pin in pins), path
        assert pins == sorted(pins, key=lambda pin: pin.split("==")[0]), path


@pytest.mark.parametrize("package", [pallas_kernels, sparsevdit_jax, models])
def test_packages_come_from_this_checkout(package):
    # `models` is a common name: another distribution's folder would win without a word.
    assert Path(package.__file__).resolve().is_relative_to(ROOT)


def test_installed_packages_belong_to_this_distribution():
    owners = importlib.metadata.packages_distributions()
    for package in PACKAGES:
        assert set(owners.get(package, [])) <= {"sparsevdit-jax"}, package


def test_no_concrete_pattern_is_asked_for_outside_patterns():
    """A pattern says what it is, so that a new one is a file and its test, and nothing elsewhere."""
    concrete = {
        node.name
        for path in PYTHON
        if path.parts[:2] == ("sparsevdit_jax", "patterns")
        for node in parse(path).body
        if isinstance(node, ast.ClassDef) and not node.name.endswith("State")
    }
    assert {"AdaSpa", "Dense", "PerHead", "SlidingTile", "Table"} <= concrete
    found = []
    for path in PYTHON:
        if path.parts[0] == "tests" or path.parts[:2] == ("sparsevdit_jax", "patterns"):
            continue
        for node in ast.walk(parse(path)):
            asks = isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "isinstance",
                "issubclass",
            )
            if (
                asks
                and {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & concrete
            ):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert not found, "\n".join(found)
