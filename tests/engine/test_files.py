"""A file or a folder is replaced whole or not at all, and what a killed process left behind goes away."""

import os
import resource
import signal
import socket
import subprocess
import sys

import pytest

from vaelib import InputError
from vaelib.engine.files import atomic_write, remove_leftovers, write_file


def test_text_and_bytes_come_as_they_are_and_folders_are_made(tmp_path):
    assert write_file(tmp_path / "a" / "b.txt", "Dice ≥ 0\r\n").read_bytes() == "Dice ≥ 0\r\n".encode()
    assert write_file(tmp_path / "a" / "b.txt", b"\x00new").read_bytes() == b"\x00new"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


@pytest.mark.parametrize("number, said", [(28, "No space left on device; make room"), (30, "choose a folder that you")])
def test_what_was_there_stays_if_the_new_one_fails(tmp_path, monkeypatch, number, said):
    def fail(*paths):
        raise OSError(number, os.strerror(number))

    write_file(tmp_path / "b.txt", "old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=f"b.txt: cannot be written: .*{said}"):
        write_file(tmp_path / "b.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"] and (tmp_path / "b.txt").read_text() == "old"


def test_what_fails_elsewhere_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "b.txt") as half:
        half.write_bytes((tmp_path / "no such source").read_bytes())
    assert not list(tmp_path.iterdir())


def test_a_file_that_grows_beyond_what_the_system_allows_is_named(tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(InputError, match="big.bin: cannot be written: File too large"):
            write_file(tmp_path / "big.bin", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_seen_below_what_a_library_makes_of_it(tmp_path):
    with pytest.raises(InputError, match="b.dcm: cannot be written: No space left on device; make room"):
        with atomic_write(tmp_path / "b.dcm"):
            try:
                raise OSError(28, os.strerror(28))
            except OSError as error:
                raise OSError("With tag (5200,9230) got exception") from error  # as pydicom does
    assert not list(tmp_path.iterdir())


def make_folder(path, text, **options):
    with atomic_write(path, **options) as half:
        half.mkdir()
        (half / "a.txt").write_text(text)


def test_a_folder_takes_the_place_of_another_and_keep_decides(tmp_path):
    make_folder(tmp_path / "f", "one")
    (tmp_path / "f" / "more.txt").touch()
    make_folder(tmp_path / "f", "two")
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["a.txt"]
    make_folder(tmp_path / "f", "three", keep=lambda there: (there / "a.txt").read_text() == "two")
    assert (tmp_path / "f" / "a.txt").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_two_that_write_one_folder_at_once_leave_one_whole(tmp_path, monkeypatch):
    real, rivals = os.rename, []

    def slow(old, new):  # a rival is faster, in the moment between the two moves
        if old == tmp_path / "f" and not rivals:
            real(old, new)
            rivals.append(make_folder(tmp_path / "f", "rival"))
        else:
            real(old, new)

    make_folder(tmp_path / "f", "old")
    monkeypatch.setattr(os, "rename", slow)
    make_folder(tmp_path / "f", "mine")
    assert rivals and (tmp_path / "f" / "a.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


KILLED = """
import os, signal, sys
from vaelib.engine.files import atomic_write
with atomic_write(sys.argv[1]) as half:
    half.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_another_is_at_work_on_is_not(tmp_path):
    path = tmp_path / "b[1].txt"
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".b[1].txt.") and not path.exists()
    others = [f".b[1].txt.{socket.gethostname()}.{os.getppid()}.x", ".b[1].txt.elsewhere.1.x", ".b.txt"]
    for name in others:
        (tmp_path / name).mkdir()
    write_file(path, "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "b[1].txt"])


def test_what_a_killed_process_left_beside_goes_too_and_can_be_cleared_alone(tmp_path):
    for way in (lambda: write_file(tmp_path / "c.txt", "whole"), lambda: remove_leftovers(tmp_path)):
        assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "b.txt"]).returncode == -signal.SIGKILL
        assert any(p.name.startswith(".b.txt.") for p in tmp_path.iterdir())
        way()
        assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]
    remove_leftovers(tmp_path / "nowhere")
