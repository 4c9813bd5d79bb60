import pytest

from experiments.new_file import check_new, free_name, written_whole


@pytest.mark.parametrize("folder", [False, True])
def test_a_block_that_fails_leaves_nothing(tmp_path, folder):
    def fail(part):
        if folder:
            part.mkdir()
            part = part / "1"
        part.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"), written_whole(tmp_path / "a") as part:
        fail(part)
    assert not list(tmp_path.iterdir())


def test_until_the_end_the_name_is_free_and_then_the_file_is_whole(tmp_path):
    path = tmp_path / "new/folder/a:b.npz"
    with written_whole(path) as part:
        part.write_text("all")
        assert not path.exists()
        assert part.parent == path.parent
        assert not set(part.name) & set(":%- ")
    assert path.read_text() == "all"
    assert [each.name for each in path.parent.iterdir()] == ["a:b.npz"]


def test_what_comes_to_exist_is_replaced_on_request_only(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(FileExistsError, match="not overwritten"), written_whole(path) as part:
        part.write_text("new")
    assert path.read_text() == "old"
    with written_whole(path, replace=True) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_free_names_pass_over_links_to_nowhere(tmp_path):
    assert free_name(tmp_path / "a.b.mp4") == tmp_path / "a.b.mp4"
    (tmp_path / "a.b.mp4").touch()
    (tmp_path / "a.b-2.mp4").symlink_to("nowhere")
    assert free_name(tmp_path / "a.b.mp4") == tmp_path / "a.b-3.mp4"


def test_the_check_sees_a_folder_that_takes_no_file(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)  # as root, whom no mode bits stop
    with pytest.raises(PermissionError, match=r"cannot be written .Permission denied.; choose"):
        check_new(tmp_path / "a")
