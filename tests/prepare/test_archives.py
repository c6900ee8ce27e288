"""Unpacking: contents, unsafe and corrupt archives, interruptions."""

import errno
import io
import json
import os
import pathlib
import re
import tarfile
import tracemalloc
import zipfile

import miniature
import numpy as np
import pytest

from trn_jax.errors import UserError
from trn_jax.prepare import annotation_files, archives, split_tar, unpacking
from trn_jax.prepare.dataset_writer import DatasetWriter

FILES = {f"set/{number}/{i}.bin": bytes([number, i]) * 700 for number in (1, 2) for i in range(5)}


def keep(name):
    return name


def unpack(folder, to, place=keep):
    to.mkdir(exist_ok=True)
    return unpacking.unpack(
        to, "set", lambda: split_tar.find_split_tar(folder, "set"), place, tree="set"
    )


def write_parts(folder, data, num_parts=4, zipped=()):
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(miniature.split(data, num_parts)):
        name = f"set-{number:02d}"
        if number in zipped:
            miniature.write_zip(folder / f"{name}.zip", {name: part, f"{name}.md5": b""})
        else:
            (folder / name).write_bytes(part)


def random_files():
    """Incompressible files, so that parts end inside of files."""
    rng = np.random.default_rng(0)
    return {f"set/{i}.jpg": rng.bytes(3000) for i in range(12)}


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("zipped", [(), (0, 2), (0, 1, 2, 3)], ids=["plain", "mixed", "zips"])
def test_parts_are_read_as_one_archive(tmp_path, mode, zipped):
    write_parts(tmp_path / "in", miniature.tar(FILES, mode), zipped=zipped)
    assert unpack(tmp_path / "in", tmp_path / "to")
    found = miniature.tree(tmp_path / "to")
    record = json.loads(found.pop("unpacked.json"))
    assert found == FILES
    assert record["set"]["files"] == len(FILES)
    assert not unpack(tmp_path / "in", tmp_path / "to")


def test_members_without_a_place_are_left_out(tmp_path):
    write_parts(tmp_path / "in", miniature.tar(FILES))
    unpack(tmp_path / "in", tmp_path / "to", lambda name: name if "/1/" in name else None)
    assert {path.name for path in (tmp_path / "to" / "set").iterdir()} == {"1"}


def test_headers_do_not_pile_up(tmp_path, monkeypatch):
    write_parts(tmp_path / "in", miniature.tar(FILES))
    opened = []
    original = tarfile.open
    monkeypatch.setattr(
        split_tar.tarfile, "open", lambda *a, **k: opened.append(original(*a, **k)) or opened[0]
    )
    for _ in split_tar.find_split_tar(tmp_path / "in", "set").members():
        assert len(opened[0].members) <= 1


def test_unpacked_archives_may_be_deleted(tmp_path):
    write_parts(tmp_path / "in", miniature.tar(FILES))
    unpack(tmp_path / "in", tmp_path / "to")
    (tmp_path / "in" / "set-01").unlink()
    assert not unpack(tmp_path / "in", tmp_path / "to")


def test_folders_unpacked_by_other_means_are_used(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "to" / "set").mkdir(parents=True)
    assert not unpack(tmp_path / "in", tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == [tmp_path / "to" / "set"]


def test_no_archives_at_all(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=r"archives of set .*--archives"):
        unpack(tmp_path / "in", tmp_path / "to")
    with pytest.raises(UserError, match=f"{tmp_path}/none.*--archives"):
        unpack(tmp_path / "none", tmp_path / "to")


# Interruptions


@pytest.mark.parametrize("call", [1, 2, 7, 12])
@pytest.mark.parametrize("where", ["rename", "read"])
def test_interrupted_and_run_again(tmp_path, monkeypatch, where, call):
    files = random_files()
    write_parts(tmp_path / "in", miniature.tar(files), num_parts=40)
    monkeypatch.setattr(split_tar, "CHUNK_SIZE", 512)
    moment = (os, "replace", call) if where == "rename" else (unpacking.Progress, "add", 3 * call)
    with miniature.interrupted(*moment):
        unpack(tmp_path / "in", tmp_path / "to")
    assert not list((tmp_path / "to").rglob("*.jpg.partial"))
    unpack(tmp_path / "in", tmp_path / "to")
    found = miniature.tree(tmp_path / "to")
    del found["unpacked.json"]
    assert found == files


def test_a_half_written_file_of_a_killed_process_is_replaced(tmp_path):
    files = random_files()
    write_parts(tmp_path / "in", miniature.tar(files))
    (tmp_path / "to" / "set").mkdir(parents=True)
    (tmp_path / "to" / "set" / "3.jpg.partial").write_bytes(b"half")
    (tmp_path / "to" / "set" / "4.jpg").write_bytes(b"of another size")
    unpack(tmp_path / "in", tmp_path / "to")
    found = miniature.tree(tmp_path / "to")
    del found["unpacked.json"]
    assert found == files


def test_full_disk(tmp_path):
    files = random_files()
    write_parts(tmp_path / "in", miniature.tar(files))
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        miniature.interrupted(os, "replace", 5, full),
        pytest.raises(UserError, match="No space left on device"),
    ):
        unpack(tmp_path / "in", tmp_path / "to")
    assert not list((tmp_path / "to").rglob("*.partial"))
    assert unpack(tmp_path / "in", tmp_path / "to")
    assert len(miniature.tree(tmp_path / "to")) == len(files) + 1


def test_resuming_with_other_archives_raises(tmp_path):
    write_parts(tmp_path / "in", miniature.tar(FILES))
    with miniature.interrupted(os, "replace", 4):
        unpack(tmp_path / "in", tmp_path / "to")
    write_parts(tmp_path / "other", miniature.tar(random_files()))
    with pytest.raises(UserError, match=r"4 files of [0-9,]+ bytes"):
        unpack(tmp_path / "other", tmp_path / "to")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"archives of set .*interrupted.*--archives"):
        unpack(tmp_path / "empty", tmp_path / "to")


# Missing and corrupt archives


def test_missing_parts_are_named(tmp_path):
    write_parts(tmp_path / "in", miniature.tar(FILES), num_parts=6, zipped=(1,))
    (tmp_path / "in" / "set-01.zip").rename(tmp_path / "in" / "set-01.zip.crdownload")
    (tmp_path / "in" / "set-03").unlink()
    with pytest.raises(UserError, match="2 of 6 parts") as error:
        unpack(tmp_path / "in", tmp_path / "to")
    assert "set-01, set-03 (there are set-01.zip.crdownload)" in str(error.value)
    with pytest.raises(UserError, match="4 of 8 parts"):
        split_tar.find_split_tar(tmp_path / "in", "set", num_parts=8)


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_a_missing_end_raises(tmp_path, mode):
    write_parts(tmp_path / "in", miniature.tar(random_files(), mode), num_parts=5)
    (tmp_path / "in" / "set-04").unlink()
    with pytest.raises(UserError, match=r"ends too early .*set-03"):
        unpack(tmp_path / "in", tmp_path / "to")


def test_every_truncation_of_the_last_part_raises(tmp_path):
    data = miniature.tar(FILES, "w")
    end = data.rstrip(b"\0")
    for length in (*range(512, len(end), 512), len(end) - 1):
        folder = tmp_path / str(length)
        write_parts(folder, data[:length], num_parts=1)
        with pytest.raises(UserError, match="ends too early"):
            unpack(folder, folder / "to")


def test_truncated_parts_are_named(tmp_path):
    write_parts(tmp_path / "in", miniature.tar(random_files()), num_parts=5)
    for number in (1, 3):
        path = tmp_path / "in" / f"set-{number:02d}"
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"set-01 \(100 bytes\), .*set-03 \(100 bytes\)"):
        unpack(tmp_path / "in", tmp_path / "to")
    assert miniature.tree(tmp_path / "to") == {}


def test_truncated_zip_files_are_named(tmp_path):
    write_parts(tmp_path / "in", miniature.tar(random_files()), zipped=(0, 1, 2, 3))
    for number in (0, 2):
        path = tmp_path / "in" / f"set-{number:02d}.zip"
        path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"set-00\.zip") as error:
        unpack(tmp_path / "in", tmp_path / "to")
    assert "set-02.zip" in str(error.value) and "set-01.zip" not in str(error.value)


def test_a_zip_file_without_its_part(tmp_path):
    (tmp_path / "in").mkdir()
    miniature.write_zip(tmp_path / "in" / "set-00.zip", {"other": b""})
    with pytest.raises(UserError, match="set-00, but other"):
        unpack(tmp_path / "in", tmp_path / "to")


@pytest.mark.parametrize("zipped", [(), (0, 1, 2, 3)], ids=["plain", "zips"])
def test_corruption_raises_wherever_it_is(tmp_path, zipped):
    data = bytearray(miniature.tar(random_files()))
    for number, position in enumerate(range(300, len(data), len(data) // 8)):
        corrupt = data.copy()
        corrupt[position] ^= 0xFF
        folder = tmp_path / str(number)
        write_parts(folder, bytes(corrupt), zipped=zipped)
        with pytest.raises(UserError, match=r"corrupt|ends too early"):
            unpack(folder, folder / "to")


def test_a_corrupt_header_is_not_the_end(tmp_path):
    data = bytearray(miniature.tar(FILES, "w"))
    second = data.index(b"set/1/2.bin")
    data[second] ^= 0xFF
    write_parts(tmp_path / "in", bytes(data))
    with pytest.raises(UserError, match="bad checksum"):
        unpack(tmp_path / "in", tmp_path / "to")


def test_parts_that_are_not_an_archive(tmp_path):
    write_parts(tmp_path / "in", b"<html>404 not found</html>" * 100)
    with pytest.raises(UserError, match=r"set-03.*tar"):
        unpack(tmp_path / "in", tmp_path / "to")


def test_an_unreadable_record(tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "unpacked.json").write_text("{")
    with pytest.raises(UserError, match=r"unpacked\.json"):
        unpack(tmp_path / "in", tmp_path / "to")


# Dangerous archives


def tar_with(**changes):
    """A tar file whose second member is changed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, change in (("set/1", {}), ("set/2", changes)):
            info = tarfile.TarInfo(name)
            info.size = 4
            for key, value in change.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(b"evil") if info.isreg() else None)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name", ["../evil", "set/../../evil", "/tmp/evil", "..", "set\\..\\..\\evil", "."]
)
def test_paths_that_lead_outside_are_refused(tmp_path, name):
    to = tmp_path / "deep" / "to"
    to.mkdir(parents=True)
    write_parts(tmp_path / "in", tar_with(name=name))
    with pytest.raises(UserError, match=re.escape(repr(name))):
        unpack(tmp_path / "in", to)
    zipped = tmp_path / "evil.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("set/1", b"good")
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    with pytest.raises(UserError, match=re.escape(repr(name))):
        unpacking.unpack(to, "zip", lambda: archives.Zip(str(zipped)), keep, tree="zip")
    allowed = {to / "unpacked.json", to / "set" / "1"}
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written - allowed == {*(tmp_path / "in").iterdir(), zipped}
    assert not pathlib.Path("/tmp/evil").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    write_parts(tmp_path / "in", tar_with(type=kind, linkname="/etc/passwd", size=0))
    with pytest.raises(UserError, match=r"'set/\w+'.*link or device"):
        unpack(tmp_path / "in", tmp_path / "to")
    assert not (tmp_path / "to" / "set" / "2").exists()


def test_links_in_zip_files_are_refused_before_anything_is_written(tmp_path):
    link = zipfile.ZipInfo("set/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("set/1", b"good")
        archive.writestr(link, b"/etc/passwd")
    (tmp_path / "to").mkdir()
    with pytest.raises(UserError, match=r"'set/\w+'.*link or device"):
        unpacking.unpack(
            tmp_path / "to", "set", lambda: archives.Zip(f"{tmp_path}/set.zip"), keep, tree="set"
        )
    assert not (tmp_path / "to" / "set").exists()


# Zip files


def unpack_zip(path, to):
    to.mkdir(exist_ok=True)
    return unpacking.unpack(to, "zip", lambda: archives.Zip(str(path)), keep, tree="zip")


def test_zip_files(tmp_path):
    files = {"a/ä b.txt": b"x" * 10_000, "empty": b""}
    miniature.write_zip(tmp_path / "a.zip", files)
    unpack_zip(tmp_path / "a.zip", tmp_path / "to")
    found = miniature.tree(tmp_path / "to")
    del found["unpacked.json"]
    assert found == files


def test_corruption_in_a_zip_file_raises(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"content" * 100)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[200] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"a.zip.*'a'"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "to")
    assert set(miniature.tree(tmp_path / "to")) == {"unpacked.json"}


def test_a_truncated_zip_file(tmp_path):
    miniature.write_zip(tmp_path / "a.zip", {"a": b"content" * 100})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:50])
    with pytest.raises(UserError, match=r"a\.zip"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "to")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_without_end_are_refused_before_they_are_read(tmp_path, kind):
    header = tarfile.TarInfo("set/name")
    header.type, header.size = kind, 1 << 30
    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)
    write_parts(tmp_path / "in", data, num_parts=1)
    tracemalloc.start()
    with pytest.raises(UserError, match="1,073,741,824 bytes"):
        unpack(tmp_path / "in", tmp_path / "to")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_long_names(tmp_path):
    files = {f"set/{'long' * 60}/{i}.bin": bytes([i]) for i in range(3)}
    write_parts(tmp_path / "in", miniature.tar(files), num_parts=1)
    assert unpack(tmp_path / "in", tmp_path / "to")
    assert {*files} <= {*miniature.tree(tmp_path / "to")}


def test_annotations_that_inflate_without_proportion_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "labels.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels/other.csv", bytes(100 << 20))  # unwanted
        archive.writestr("labels/small.csv", "a;b\n")
    wanted = {"small.csv": ()}
    writer = DatasetWriter(tmp_path / "to")
    paths = annotation_files.collect(writer, tmp_path, ".", wanted, packed_in="labels.zip")
    assert pathlib.Path(paths["small.csv"]).read_text() == "a;b\n"
    with pytest.raises(UserError, match=r"labels\.zip.*104,857,600"):
        annotation_files.collect(writer, tmp_path, ".", {"other.csv": ()}, packed_in="labels.zip")
