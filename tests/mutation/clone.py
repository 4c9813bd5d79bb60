"""A commit of this repository in a folder of its own."""

import subprocess
from pathlib import Path

from experiments.record import ROOT


def clone(folder: Path, commit: str) -> None:
    """Checks `commit` out into `folder`, which is made; nothing in the checkout changes."""
    git(ROOT, "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
    git(folder, "checkout", "--quiet", "--detach", commit)


def resolve(ref: str) -> str:
    """The commit that `ref` names."""
    return git(ROOT, "rev-parse", "--verify", f"{ref}^{{commit}}")


def git(root: Path, *arguments: str) -> str:
    """What git prints; ValueError with what it complains about."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()
