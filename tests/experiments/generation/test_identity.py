"""Files are told apart by what is in them."""

import os

import pytest

from experiments.generation import identity as module
from experiments.generation.identity import identities, identity


def test_content_tells_and_neither_name_nor_time_nor_link(tmp_path):
    a, b, link = tmp_path / "a", tmp_path / "b", tmp_path / "link"
    a.write_bytes(b"one")
    link.symlink_to(a)
    before = identity(a)
    os.utime(a, (1, 1))
    b.write_bytes(b"one")
    assert identity(a) == identity(b) == identity(link) == before
    b.write_bytes(b"two")
    assert identity(b) != before


def test_a_large_file_is_known_by_header_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WHOLE", 4)
    path = tmp_path / "a"
    path.write_bytes(b"header and weights")
    os.utime(path, ns=(0, 1_000))
    before = identity(path)
    os.utime(path, ns=(0, 2_000))
    assert identity(path) != before
    os.utime(path, ns=(0, 1_000))
    assert identity(path) == before
    path.write_bytes(b"Header and weights")
    os.utime(path, ns=(0, 1_000))
    assert identity(path) != before


def test_names_are_those_below_the_folder(tmp_path, monkeypatch):
    (tmp_path / "m" / "vae").mkdir(parents=True)
    paths = [tmp_path / "m" / "vae" / "config.json", tmp_path / "first.png"]
    for path in paths:
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    relative = [path.relative_to(tmp_path) for path in paths]
    found = identities(relative, tmp_path / "m")
    assert list(found) == ["first.png", "vae/config.json"]
    assert found == identities(paths, (tmp_path / "m").relative_to(tmp_path))


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        identity(tmp_path / "none")
