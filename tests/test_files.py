"""A file is replaced whole or not at all."""

import os

import pytest

from vaelib.files import replace


def test_text_and_bytes_come_as_they_are_and_folders_are_made(tmp_path):
    assert replace(tmp_path / "a" / "b.txt", "Dice ≥ 0\r\n").read_bytes() == "Dice ≥ 0\r\n".encode()
    assert replace(tmp_path / "a" / "b.txt", b"\x00new").read_bytes() == b"\x00new"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_what_was_there_stays_if_the_new_one_fails(tmp_path, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    replace(tmp_path / "b.txt", "old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        replace(tmp_path / "b.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"] and (tmp_path / "b.txt").read_text() == "old"
