"""Locks of folders that data sets are written to."""

import fcntl
import os

import pytest

from trn_jax.errors import UserError
from trn_jax.prepare import folder_lock
from trn_jax.prepare.folder_lock import locked_folder


def test_a_read_only_target(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=f"{tmp_path}.*read-only.*--to"), locked_folder(tmp_path):
        pass


def test_one_preparation_at_a_time(tmp_path):
    with locked_folder(tmp_path / "to"):
        handle = os.open(tmp_path / "to", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(UserError, match=f"{tmp_path}/to"), locked_folder(tmp_path / "to"):
            pass
        os.close(handle)
    with locked_folder(tmp_path / "to"):
        pass
    assert list((tmp_path / "to").iterdir()) == []


def test_there_are_no_locks_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    with locked_folder(tmp_path / "to"), locked_folder(tmp_path / "to"):
        assert (tmp_path / "to").is_dir()
