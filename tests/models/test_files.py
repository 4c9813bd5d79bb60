"""Folders and files that are not what they look like."""

import pytest

from models.files import check_content, checkpoint_folder, contents, is_file, read_json


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wan").mkdir()
    assert checkpoint_folder("~/wan") == tmp_path / "wan"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wan-Q8_0.gguf", "GGUF files are quantised"),
        ("Wan2.1_VAE.pth", "torch's pickled files"),
        ("wan2.1_t2v_1.3B_bf16.safetensors", "original authors or of ComfyUI"),
        ("model_index.json", "give the folder that holds it"),
    ],
)
def test_a_file_is_no_folder(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(NotADirectoryError, match=f"{name} is a file, not a folder; .*{says}"):
        checkpoint_folder(tmp_path / name)


def test_nothing_and_dangling_links_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        checkpoint_folder(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(FileNotFoundError, match=r"link is a link that points nowhere \(gone\)"):
        checkpoint_folder(tmp_path / "link")
    with pytest.raises(FileNotFoundError, match="points nowhere"):
        is_file(tmp_path / "link")
    assert not is_file(tmp_path / "nowhere")
    (tmp_path / "here").symlink_to(tmp_path)
    assert not is_file(tmp_path / "here")


@pytest.mark.parametrize(
    "inside", ["", "models--a--b", "models--a--b/snapshots", "models--a--b/blobs"]
)
def test_a_hub_s_cache_names_its_snapshots(tmp_path, inside):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    assert contents(tmp_path / inside).endswith(f"; give one of its snapshots: {snapshot}")
    assert "snapshots: " not in contents(snapshot)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"[]", "must hold an object, .* but holds list"),
        (b"null", "must hold an object"),
        (b"{", r"is not JSON \("),
        (b"[" * 100_000, r"is not JSON \("),
        ("{}".encode("utf-16"), r"is not JSON \("),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', r"is not JSON \(c occurs more than once"),
    ],
)
def test_what_is_no_object_in_json_is_refused_with_its_file(tmp_path, content, says):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json .*{says}"):
        read_json(path)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes('\ufeff{"a": "ü"}'.encode())
    assert read_json(path) == {"a": "ü"}
    check_content(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*absent"):
        read_json(tmp_path / "absent.json")
