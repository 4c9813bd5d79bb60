"""The README's examples run as they stand, and its two commands exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_examples_run():
    """One process, one example after the other, each without the names of those before it.

    Those that ask for several devices come first: JAX must hear of that before anything else.
    """
    examples = sorted(EXAMPLES, key=lambda example: "num_cpu_devices" not in example)
    program = f"for example in {examples!r}: exec(example, {{}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"density of each head: \[0?\.\d+", done.stdout), done.stdout
    assert 5 < float(re.search(r"dB: ([\d.]+)", done.stdout).group(1)) < 60


def test_the_first_example_is_short():
    assert len(EXAMPLES) >= 2
    lines = [line for line in EXAMPLES[0].splitlines() if line.strip()]
    assert len(lines) <= 22


def test_commands_in_the_readme_are_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make demo" in README
    assert "make test" in README
