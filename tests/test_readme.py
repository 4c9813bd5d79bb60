"""The READMEs' examples run as they stand, and what the pages name exists."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import FILES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path for path in FILES if path.suffix == ".md" and path.name != "LOG.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_examples_run():
    """One process, one example after the other, each without the names of those before it.

    Those that ask for several devices come first: JAX must hear of that before anything else.
    """
    found = examples("README.md") + examples("pallas_kernels/README.md")
    # An example of a page of models runs unless it reads a checkpoint that is not here.
    found += [e for e in examples("models/README.md") if "load_transformer" not in e]
    assert len(found) == 7
    used = (
        "out = sparse_attention(q, k, v, grid=grid, pattern=TopK(0.2))\n"
        "assert 0.15 < density(TopK(0.2), grid, num_heads=4)[0] < 0.3"
    )
    pattern = next(e for e in found if "class TopK" in e)
    found[found.index(pattern)] = f"{examples('README.md')[0]}\n{pattern}\n{used}"
    found.sort(key=lambda example: "num_cpu_devices" not in example)
    program = f"for example in {found!r}: exec(example, {{}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"density of each head: \[0?\.\d+", done.stdout)) == 3, done.stdout


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 160
    assert "**Status.**" in "\n".join(lines[:10])
    first, *others = examples("README.md")
    assert len([line for line in first.splitlines() if line.strip()]) <= 12
    assert all(len(example.splitlines()) <= 22 for example in others)
    for section in re.split(r"^## ", README, flags=re.MULTILINE):
        assert len(re.findall(r"^\|---", section, re.MULTILINE)) <= 1, section.partition("\n")[0]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = ROOT / page.parent / name if name else ROOT / page
        assert there.exists(), f"{page} links {target}, which does not exist"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page} links {target}"


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, f"{page} names make {target}"
        for module in re.findall(r"python -m ([\w.]+)", text):
            if module.startswith(("experiments.", "tests.")) and module != "experiments.NAME":
                assert importlib.util.find_spec(module), f"{page} names {module}"
