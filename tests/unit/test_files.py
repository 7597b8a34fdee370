"""Files that others may read as the process's mask says, written without touching it."""

import os

import pytest

from ms_bert.data import files


@pytest.mark.parametrize("told", [True, False], ids=["told by the kernel", "known since the start"])
def test_the_mask_is_never_set_once_threads_may_make_files(tmp_path, monkeypatch, told):
    before = os.umask(0o027)
    try:
        if not told:
            monkeypatch.setattr(files, "_UMASK", 0o027)
            monkeypatch.setattr(files, "_told_umask", lambda: None)
        elif files._told_umask() is None:
            pytest.skip("this kernel does not tell it")
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask was set"))
        files.write_atomically(tmp_path / "a", b"content")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    finally:
        monkeypatch.undo()
        os.umask(before)


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_atomically(tmp_path / "gone" / "a", b"content", make_folder=False)
    assert not list(tmp_path.iterdir())
