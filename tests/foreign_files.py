"""Weights and scores that mean harm or are malformed, all of them small on the disk.

As a script: reads all of them within bounds, and prints what became of each as a line of JSON.
"""

import io
import json
import os
import pickle
import struct
import sys
import zipfile
import zlib

import numpy as np
from torch_files import (
    MAGIC,
    Call,
    Storage,
    legacy_file,
    npz_file,
    pickled,
    tensor,
    whole,
    zip_file,
)

HUGE = 2**40
GIGABYTE = 1 << 30
ESCAPE = "\x1b[2Jname\u202e\n\r\x08"


def zeros(num_bytes, head=b""):
    """`head` and zeros as a raw deflate stream, a thousandth of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (num_bytes >> 20) + packer.flush()


def deflated_zip(name, stream, file_size, *, method=8, flags=0, compress_size=None):
    """A zip file whose one member says what it likes about itself."""
    compress_size = len(stream) if compress_size is None else compress_size
    size = min(file_size, 2**32 - 1)
    fields = (20, flags, method, 0, 0, 0, compress_size, size, len(name))
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields, 0) + name.encode()
    central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0, 0)
    central += name.encode()
    start = len(local) + len(stream)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), start, 0)
    return local + stream + central + end


def npy(shape, dtype="<f4", version=1, header=None):
    """The head of a `.npy` member."""
    header = header or repr({"descr": dtype, "fortran_order": False, "shape": shape}) + "\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin1")


def npz(**members):
    """A `.npz` file of members as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def compressed(method, **arrays):
    """A `.npz` file packed in a way that NumPy does not use."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    return file.getvalue()


def nested_pickle(depth, opening=b"]", closing=b"a"):
    """Containers within containers."""
    return b"\x80\x02" + opening * depth + closing * (depth - 1) + b"."


def laughs(levels=60):
    """A tuple of two of the same tuple of two ...: exponential for all that walks it."""
    return b")q\x630" + b"h\x63h\x63\x86q\x630" * levels + b"h\x63"


def storage_of(size, key=b"X\x01\x00\x00\x000"):
    """The instructions for a storage of `size`, given as instructions."""
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        + key
        + b"X\x03\x00\x00\x00cpu"
        + size
        + b"tQ"
    )


def rebuilt(
    storage, offset=b"K\x00", shape=b"K\x01\x85", strides=b"K\x01\x85", name=b"X\x01\x00\x00\x00w"
):
    """A pickled state dict with one tensor, in instructions."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides
    return b"\x80\x02}" + name + call + b"\x89}tRs."


def torch_zip(data, **members):
    """A zip file of PyTorch around a pickle given in instructions."""
    members = {"0": np.ones(1, np.float32).tobytes()} | members
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", data)
        for key, content in members.items():
            archive.writestr(f"m/data/{key}", content)
    return file.getvalue()


def weights():
    """Files of weights, `{name: bytes}`."""
    one = b"K\x01"
    plain = storage_of(one)
    return {
        "nested.safetensors": _safe(b'{"a":' * 20000),
        "nested lists.safetensors": _safe(b'{"a":' + b"[" * 100_000),
        "huge number.safetensors": _safe(b'{"a": ' + b"9" * 5000 + b"}"),
        "huge shape.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": [0, 9' + b"9" * 400 + b'], "data_offsets": [0, 0]}}'
        ),
        "65 axes.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": [' + b"1," * 65 + b'0], "data_offsets": [0, 0]}}'
        ),
        "nan.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}xxxx'
        ),
        "bool.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [false, true]}}'
        ),
        "text shape.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": "", "data_offsets": [0, 4]}}', b"xxxx"
        ),
        "object shape.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": {}, "data_offsets": [0, 4]}}', b"xxxx"
        ),
        "list dtype.safetensors": _safe(
            b'{"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}', b"xxxx"
        ),
        "list.safetensors": struct.pack("<Q", 2) + b"[]",
        "null.safetensors": _safe(b'{"a": null}'),
        "surplus key.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4], "x": 1}}', b"xxxx"
        ),
        "mixed offsets.safetensors": _safe(
            b'{"a": {"data_offsets": [0, 4]}, "b": {"data_offsets": ["a"]}}'
        ),
        "not utf-8.safetensors": _safe(b'{"\xff\xfe": 1}'),
        "surrogate.safetensors": _safe(
            b'{"\\ud800": {"dtype": "F99", "shape": [], "data_offsets": [0, 4]}}', b"xxxx"
        ),
        "escapes.safetensors": _safe(
            json.dumps({ESCAPE: {"dtype": ESCAPE, "shape": [], "data_offsets": [0, 4]}}).encode()
        ),
        "overlap.safetensors": _safe(
            b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, '
            b'"b": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}',
            b"xxxx",
        ),
        # pickles
        "deep list.pth": nested_pickle(20_000),
        "deep tuple.pth": b"\x80\x02)" + b"\x85" * 20_000 + b".",
        "deep zip.pth": torch_zip(nested_pickle(20_000)),
        "deep dict.pth": torch_zip(b"\x80\x02" + b"}K\x01" * 20_000 + b"N" + b"s" * 20_000 + b"."),
        "long.pth": torch_zip(b"\x80\x02\x8b" + struct.pack("<i", -5) + b"."),
        "bytes.pth": torch_zip(b"\x80\x02\x8e" + struct.pack("<Q", 2**63) + b"x."),
        "bytearray.pth": torch_zip(b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"x."),
        "digits.pth": torch_zip(b"\x80\x02L" + b"9" * 9999 + b"L\n."),
        "number as key.pth": torch_zip(
            b"\x80\x02}\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000 + b"Ns."
        ),
        "unicode.pth": torch_zip(b"\x80\x02V\\ud800\n."),
        "bad utf-8.pth": torch_zip(b"\x80\x02X\x02\x00\x00\x00\xff\xfe."),
        "bad string.pth": torch_zip(b"\x80\x02S'a\\x\n."),
        "bad float.pth": torch_zip(b"\x80\x02Fabc\n."),
        "stack.pth": torch_zip(b"\x80\x020."),
        "mark.pth": torch_zip(b"\x80\x02t."),
        "memo.pth": torch_zip(b"\x80\x02h\x07."),
        "reduce.pth": torch_zip(b"\x80\x02K\x01K\x01R."),
        "global.pth": torch_zip(b"\x80\x04K\x01K\x01\x93."),
        "setitem.pth": torch_zip(b"\x80\x02K\x01K\x01K\x01s."),
        "persid.pth": torch_zip(b"\x80\x02P12\n."),
        "next buffer.pth": torch_zip(b"\x80\x05\x97."),
        "persistent laughs.pth": torch_zip(b"\x80\x02" + laughs() + b"Q."),
        "key laughs.pth": torch_zip(rebuilt(storage_of(one, laughs()))),
        "size laughs.pth": torch_zip(rebuilt(storage_of(laughs()))),
        "type laughs.pth": torch_zip(
            b"\x80\x02(X\x07\x00\x00\x00storage" + laughs() + b"X\x01\x00\x00\x000K\x01K\x01tQ."
        ),
        "offset laughs.pth": torch_zip(rebuilt(plain, laughs())),
        "shape laughs.pth": torch_zip(rebuilt(plain, shape=laughs())),
        "strides laughs.pth": torch_zip(rebuilt(plain, strides=laughs())),
        "protocol laughs.pth": pickle.dumps(MAGIC, 2)
        + b"\x80\x02"
        + laughs()
        + b"."
        + pickle.dumps({}) * 3,
        "keys laughs.pth": _legacy_keys(b"\x80\x02]" + laughs() + b"a."),
        "keys.pth": _legacy_keys(pickle.dumps([1.5, None])),
        "list shapes.pth": torch_zip(_same_list_many_times()),
        "same pairs.pth": torch_zip(_same_pairs_many_times()),
        "float size.pth": torch_zip(rebuilt(storage_of(b"G" + struct.pack(">d", 1e300)))),
        "bool size.pth": torch_zip(rebuilt(storage_of(b"\x88"))),
        "huge size.pth": torch_zip(rebuilt(storage_of(b"\x8a\x7f" + b"\x7f" * 127))),
        "huge offset.pth": torch_zip(rebuilt(plain, b"\x8a\x7f" + b"\x7f" * 127)),
        "float shape.pth": torch_zip(rebuilt(plain, shape=b"G" + struct.pack(">d", 1.0) + b"\x85")),
        "text shape.pth": torch_zip(rebuilt(plain, shape=b"X\x01\x00\x00\x00a")),
        "empty but wide.pth": torch_zip(
            rebuilt(
                plain, shape=b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x3f\x86", strides=b"K\x01K\x01\x86"
            )
        ),
        "70 axes.pth": torch_zip(
            rebuilt(plain, shape=b"(" + b"K\x01" * 70 + b"t", strides=b"(" + b"K\x00" * 70 + b"t")
        ),
        "expanded.pth": zip_file(
            {"fc.weight": tensor(Storage(np.ones(1)), (4_000_000, 2048), (0, 0))}
        ),
        "overlapping.pth": zip_file(
            {"w": tensor(Storage(np.ones(6000)), (4, 5000, 60000), (1, 0, 0))}
        ),
        "expanded legacy.pth": legacy_file({"w": tensor(Storage(np.ones(1)), (HUGE,), (0,))}),
        "many expanded.pth": zip_file(
            {f"w{i}": tensor(Storage(np.ones(1)), (1 << 22,), (0,)) for i in range(99)}
        ),
        "compressed.pth": zip_file({"w": whole(np.zeros(1 << 20))}, compression=8),
        "compressed pickle.pth": deflated_zip("m/data.pkl", zeros(GIGABYTE, b"\x80\x02"), GIGABYTE),
        "sparse.pth": zip_file(
            {"w": Call("torch._utils._rebuild_sparse_tensor", 1, (2,)), "x": whole([1.0])}
        ),
        "quantised.pth": zip_file(
            {
                "w": Call("torch._utils._rebuild_qtensor", Storage([1.0]), 0, (1,), (1,), 1),
                "x": whole([1.0]),
            }
        ),
        "v3.pth": zip_file(
            {"w": Call("torch._utils._rebuild_tensor_v3", Storage([1.0]), 0, (1,), (1,), 1, 2, 3)}
        ),
        "subclass.pth": zip_file({"w": Call("torch._tensor._rebuild_from_type_v2", 1, 2, (), {})}),
        "escapes.pth": zip_file({ESCAPE: tensor(Storage([1.0]), (9,), (1,))}),
        "escapes of classes.pth": zip_file({"model": Call(f"a.{ESCAPE[:5]}")}),
        "object.pth": zip_file(Call("models.TSN")),
        "two pickles.pth": npz_file(a=np.zeros(1)).replace(b"a.npy", b"b.pkl"),
        "tar.pth": b"x" * 257 + b"ustar" + b"x" * 300,
        "old tar.pth": b"sys_info" + bytes(700),
        "zip without entries.pth": b"PK\x05\x06" + bytes(18),
        "zip64.pth": b"PK\x06\x06"
        + bytes(52)
        + b"PK\x06\x07"
        + bytes(16)
        + b"PK\x05\x06"
        + b"\xff" * 18,
        "negative offset.pth": b"PK"
        + bytes(40)
        + b"PK\x05\x06"
        + bytes(4)
        + struct.pack("<HHLLH", 1, 1, 9999, 9999, 0),
        "truncated.pth": b"PK\x03\x04",
        "memory map.pth": b"\x80",
        "one byte.pth": b"x",
        "seven bytes.safetensors": b"\x01" * 7,
        "elf.pth": b"\x7fELF" + bytes(99),
        "gzip.pth": b"\x1f\x8b" + bytes(99),
    }


def _safe(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


def _legacy_keys(keys):
    system = {"protocol_version": 1001, "little_endian": True}
    head = [pickle.dumps(part, 2) for part in (MAGIC, 1001, system)]
    return b"".join([*head, rebuilt(storage_of(b"K\x01N")), keys]) + bytes(64)


def _same_list_many_times(count=20_000):
    """Tensors that all have the same long list for a shape: a copy each is too much."""
    shape = b"]q\x00(" + b"K\x01" * count + b"e0"
    storage = storage_of(b"K\x01") + b"q\x010"
    function = b"ctorch._utils\n_rebuild_tensor_v2\nq\x020"
    call = b"h\x02(h\x01K\x00h\x00h\x00\x89}tR"
    return b"\x80\x02" + shape + storage + function + b"](" + call * count + b"e."


def _same_pairs_many_times(count=5000):
    """Dictionaries that are all made of the same list: a copy each takes the square of the file."""
    key = b"X\x04\x00\x00\x00"
    pairs = b"".join(key + f"{i:04}".encode() + b"N\x86" for i in range(count))
    function = b"ccollections\nOrderedDict\nq\x010"
    return (
        b"\x80\x02]q\x00(" + pairs + b"e0" + function + b"](" + b"h\x01h\x00\x85R" * count + b"e."
    )


def json_scores(**changes):
    """A JSON file of scores of two videos."""
    plain = {
        "scores": [[0.5, 0.5], [0.25, 0.75]],
        "labels": [0, 1],
        "videos": ["a", "b"],
        "class_names": ["x", "y"],
    }
    return json.dumps(plain | changes).encode()


def npz_scores(**changes):
    """The same as `.npz`."""
    plain = {
        "scores": np.eye(2, dtype=np.float32),
        "labels": np.array([0, 1]),
        "videos": np.array(["a", "b"]),
        "class_names": np.array(["x", "y"]),
    }
    return npz_file(**plain | changes)


def rows(*changes, **common):
    """The same as a dump of mmaction2, pickled."""
    changes = changes or ({}, {})
    return [
        {"pred_score": np.eye(2, dtype=np.float32)[i % 2], "gt_label": np.array([i % 2])}
        | common
        | change
        for i, change in enumerate(changes)
    ]


def dump(*changes, protocol=4, **common):
    """`rows` as bytes."""
    return pickle.dumps(rows(*changes, **common), protocol)


def tensors(**entries):
    """A dump of one row with entries as PyTorch pickles them."""
    return pickled([{"pred_score": whole_inside([1.0, 0.0]), "gt_label": 0} | entries])[0]


def whole_inside(values, shape=None, strides=(1,)):
    """A tensor with its storage inside of the pickle."""
    storage = Call("torch.storage._load_from_bytes", legacy_file(Storage(np.asarray(values))))
    return tensor(storage, shape or np.shape(values), strides)


def npz_archives():
    """Malformed `.npz` files, `{name: bytes}`."""
    return {
        "zip bomb stated.npz": deflated_zip(
            "a.npy", zeros(GIGABYTE * 2, npy((GIGABYTE // 2 - 1,))), 2 * GIGABYTE
        ),
        "zip bomb hidden.npz": deflated_zip(
            "a.npy", zeros(GIGABYTE, npy((4,))), len(npy((4,))) + 16
        ),
        "zip bomb header.npz": deflated_zip(
            "a.npy", zeros(GIGABYTE, b"\x93NUMPY\x02\x00" + b"\x00\x00\x00\x30"), 1 << 20
        ),
        "zip bomb magic.npz": deflated_zip("a.npy", zeros(GIGABYTE), 1 << 20),
        "many members.npz": npz(**{f"m{i}": npy((0,)) for i in range(3000)}),
        "lzma.npz": compressed(zipfile.ZIP_LZMA, a=np.zeros(9)),
        "bzip2.npz": compressed(zipfile.ZIP_BZIP2, a=np.zeros(9)),
        "unknown compression.npz": deflated_zip("a.npy", b"x" * 99, 99, method=77),
        "encrypted.npz": deflated_zip("a.npy", b"x" * 99, 99, method=0, flags=1),
        "encrypted strongly.npz": deflated_zip("a.npy", b"x" * 99, 99, method=0, flags=64),
        "patched.npz": deflated_zip("a.npy", b"x" * 99, 99, method=0, flags=32),
        "utf-8 name.npz": deflated_zip(
            "a\udcff.npy".encode(errors="surrogateescape").decode("latin1"), b"", 0, flags=2048
        ),
        "no deflate stream.npz": deflated_zip("a.npy", b"\xff" * 99, 200),
        "compressed size.npz": deflated_zip("a.npy", b"x" * 99, 99, method=0, compress_size=2**31),
        "object.npz": npz(a=npy((1,), "|O") + b"x" * 8),
        "record.npz": npz(a=npy((1,), [("a", "<f4"), ("b", "<f8")]) + b"x" * 12),
        "bfloat16.npz": npz(a=npy((1,), "|V2") + b"xx"),
        "date.npz": npz(a=npy((1,), "<M8[s]") + b"x" * 8),
        "subarray.npz": npz(
            a=npy(
                (1,),
                header="{'descr': ('<f4', (1000000000,)), 'fortran_order': False, 'shape': (1,)}\n",
            )
        ),
        "empty but wide.npz": npz(a=npy((0, 2**62, 2**62))),
        "65 axes.npz": npz(a=npy((1,) * 65) + b"xxxx"),
        "text of no width.npz": npz(a=npy((HUGE,), "<U0")),
        "negative.npz": npz(a=npy((-1,))),
        "bool shape.npz": npz(a=npy((True,)) + b"xxxx"),
        "huge number.npz": npz(a=npy((10**400,))),
        "nested header.npz": npz(a=npy(0, header="(" * 5000 + ")" * 5000)),
        "tokens header.npz": npz(a=npy(0, header="{'descr': '''")),
        "header of 1 MB.npz": npz(a=npy(0, version=2, header=" " * (1 << 20))),
        "key header.npz": npz(a=npy(0, header="{1: 2}")),
        "null header.npz": npz(
            a=npy(0, header="{'descr': '<f4\0', 'fortran_order': False, 'shape': (1,)}")
        ),
        "version 9.npz": npz(a=b"\x93NUMPY\x09\x00" + b"x" * 99),
        "escapes.npz": npz(**{ESCAPE: b"nothing"}),
    }


def score_files():
    """Files of scores, `{name: bytes}`; the format is the end of the name."""
    one = {"pred_score": np.zeros(2), "gt_label": 0}
    text = "\x1b[2J"
    files = npz_archives() | {
        f"{name}.json": json_scores(**changes)
        for name, changes in {
            "minus one of several": dict(labels=[[-1], [0]]),
            "beyond of several": dict(labels=[[2], [0]]),
            "fraction of several": dict(labels=[[0.5], [0]]),
            "bool of several": dict(labels=[[True], [0]]),
            "text of several": dict(labels=[["0"], [0]]),
            "mixed": dict(labels=[[0], 0]),
            "mixed scores": dict(scores=[[0, 1], 1]),
            "minus one": dict(labels=[-1, 0]),
            "fraction": dict(labels=[0.7, 0]),
            "bool": dict(labels=[True, False]),
            "text": dict(labels=["0", "1"]),
            "null": dict(labels=[None, 0]),
            "null labels": dict(labels=None),
            "object labels": dict(labels={}),
            "huge label": dict(labels=[10**30, 0]),
            "huge label beside a fraction": dict(labels=[10**400, 0.5]),
            "nan label": dict(labels=[float("nan"), 0]),
            "nan": dict(scores=[[float("nan"), 0], [0, 1]]),
            "infinite": dict(scores=[[float("inf"), 0], [0, 1]]),
            "too large": dict(scores=[[1e300, 0], [0, 1]]),
            "huge score": dict(scores=[[10**400, 0.5], [0, 1]]),
            "text score": dict(scores=[["1", 0], [0, 1]]),
            "bool score": dict(scores=[[True, 0], [0, 1]]),
            "null score": dict(scores=[[None, 0], [0, 1]]),
            "ragged": dict(scores=[[1], [0, 1]]),
            "deeper": dict(scores=[[[1, 0]], [[0, 1]]]),
            "flat": dict(scores=[1, 0]),
            "number": dict(scores=1),
            "no classes": dict(scores=[[], []], class_names=[]),
            "class twice": dict(class_names=["x", "x"]),
            "class number": dict(class_names=[1, 2]),
            "class text": dict(class_names="xy"),
            "class null": dict(class_names=None),
            "classes": dict(class_names=["x"]),
            "videos": dict(videos=["a"]),
            "video text": dict(videos="ab"),
            "video number": dict(videos=[1, 2]),
            "partner beyond": dict(partners=[[0, 2]]),
            "partner minus": dict(partners=[[0, -1]]),
            "partner fraction": dict(partners=[[0, 0.5]]),
            "partner text": dict(partners=["ab"]),
            "partner number": dict(partners=3),
            "partner three": dict(partners=[[0, 1, 0]]),
            "partner of two": dict(partners=[[0, 1], [0, 0]]),
            "protocol": dict(protocol=[1]) | dict(protocol=5),
            "labels for one": dict(labels=[0]),
            "several for one": dict(labels=[[0]]),
            "wide": dict(scores=[[0] * 500_000], labels=[0], videos=[], class_names=[]),
            "wide and long": dict(
                scores=[[0] * 5000], labels=[[0]] * 100_000, videos=[], class_names=[]
            ),
            "escapes": dict(class_names=[ESCAPE, ESCAPE]),
        }.items()
    }
    files |= {
        f"{name}.json": content
        for name, content in {
            "nested": b"[" * 200_000,
            "digits": b'{"scores": ' + b"9" * 5000 + b"}",
            "not utf-8": b'{"\xff": 1}',
            "utf-16": '{"scores": 1}'.encode("utf-16"),
            "nothing": b"",
            "nul": b"\0" * 100,
            "array": b"[]",
            "other keys": json.dumps({text: 1}).encode(),
        }.items()
    }
    files |= {
        f"{name}.npz": npz_scores(**changes)
        for name, changes in {
            "complex": dict(scores=np.eye(2) * 1j),
            "fraction": dict(labels=np.array([0.7, 0])),
            "fraction of several": dict(labels=np.array([[0.7, 0], [0, 1]])),
            "two of several": dict(labels=np.array([[2, 0], [0, 1]])),
            "minus one of several": dict(labels=np.array([[-1, 0], [0, 1]])),
            "nan of several": dict(labels=np.array([[np.nan, 0], [0, 1]])),
            "minus one": dict(labels=np.array([-1, 0])),
            "beyond": dict(labels=np.array([2, 0])),
            "uint64": dict(labels=np.array([2**64 - 1, 0], np.uint64)),
            "bool": dict(labels=np.array([True, False])),
            "text": dict(labels=np.array(["0", "1"])),
            "labels of three axes": dict(labels=np.zeros((2, 2, 2))),
            "label": dict(labels=np.array(0)),
            "labels of another shape": dict(labels=np.zeros((2, 3))),
            "text scores": dict(scores=np.array([["a", "b"]] * 2)),
            "bool scores": dict(scores=np.eye(2) > 0),
            "flat": dict(scores=np.zeros(2)),
            "deep": dict(scores=np.zeros((2, 2, 2))),
            "nan": dict(scores=np.array([[np.nan, 0]] * 2)),
            "too large": dict(scores=np.array([[1e300, 0]] * 2)),
            "class twice": dict(class_names=np.array(["x", "x"])),
            "class numbers": dict(class_names=np.array([0, 1])),
            "class matrix": dict(class_names=np.array([["x", "y"]])),
            "one class": dict(class_names=np.array("x")),
            "videos": dict(videos=np.array(["a"] * 3)),
            "partners": dict(partners=np.array([[0, 5]])),
            "partners fraction": dict(partners=np.array([[0, 0.5]])),
            "partner": dict(partners=np.array([0, 1])),
            "partners one": dict(partners=np.array(0)),
            "many partners": dict(partners=np.zeros((1 << 20, 2), np.uint8)),
            "many videos": dict(videos=np.zeros(1 << 20, "U8")),
            "bytes": dict(videos=np.array([b"a", b"b"])),
            "wide": dict(
                scores=np.zeros((1, 1 << 20), np.float32),
                labels=np.array([0]),
                videos=np.array([], str),
                class_names=np.array([], str),
            ),
        }.items()
    }
    files |= {
        "bomb.npz": deflated_zip(
            "scores.npy", zeros(2 * GIGABYTE, npy((GIGABYTE // 2 - 1,))), 2 * GIGABYTE
        ),
        "hidden bomb.npz": deflated_zip(
            "scores.npy", zeros(GIGABYTE, npy((2, 2))), len(npy((2, 2))) + 16
        ),
        "videos of no width.npz": npz(
            scores=npy((2, 2)) + bytes(16),
            labels=npy((2,)) + bytes(8),
            videos=npy((HUGE,), "<U0"),
            class_names=npy((0,), "<U1"),
        ),
        "objects.npz": npz(scores=npy((2, 2), "|O") + bytes(32)),
        "other.npz": npz_file(a=np.zeros(2)),
        "folder.npz": b"PK\x05\x06" + bytes(18),
    }
    files |= {
        f"{name}.pkl": content
        for name, content in {
            "complex": dump(pred_score=np.ones(2) * 1j),
            "complex tensor": tensors(pred_score=whole_inside(np.ones(2, np.complex64))),
            "expanded tensor": tensors(pred_score=whole_inside([1.0], (1 << 32,), (0,))),
            "fraction": dump(gt_label=np.array([0.7])),
            "fraction number": dump(gt_label=0.7),
            "minus one": dump(gt_label=np.array([-1])),
            "minus one of several": dump(gt_label=np.array([0, -1])),
            "half of several": dump(gt_label=np.array([0, 0.5])),
            "beyond": dump(gt_label=5),
            "bool": dump(gt_label=True),
            "text": dump(gt_label="0"),
            "null": dump(gt_label=None),
            "nan": dump(pred_score=np.array([np.nan, 1])),
            "number as score": dump(pred_score=1.0, gt_label=1),
            "list of text": dump(pred_score=["a", "b"]),
            "list of bool": dump(pred_score=[True, False]),
            "matrix": dump(pred_score=np.zeros((1, 2))),
            "text array": dump(pred_score=np.array(["a", "b"])),
            "dates": dump(pred_score=np.array(["2020", "2021"], "M8[s]")),
            "records": dump(pred_score=np.zeros(2, "f4,f8")),
            "objects": dump(pred_score=np.array([None, 1])),
            "lengths": dump({}, {"pred_score": np.zeros(3)}),
            "label lengths": dump({}, {"gt_label": np.zeros(2)}),
            "row": pickle.dumps([one, None]),
            "rows of lists": pickle.dumps([[1]]),
            "tuple": pickle.dumps((one,)),
            "class twice": dump(about={"class_names": ["x", "x"]}),
            "class numbers": dump(about={"class_names": [1, 2]}),
            "class text": dump(about={"class_names": "xy"}),
            "partners": dump(about={"partners": [[0, 7]]}),
            "partner numbers": dump(about={"partners": [1, 2]}),
            "partner null": dump(about={"partners": None}),
            "protocol": dump(about={"protocol": 7}),
            "laughing list": b"\x80\x02]}(X\x0a\x00\x00\x00pred_score"
            + _laughing_list()
            + b"X\x08\x00\x00\x00gt_labelK\x00ua.",
            "same row": _same_row(),
            "same bytes": _same_bytes(),
            "same storage": _same_storage(),
            "encode": b"\x80\x02]c_codecs\nencode\n\x85Ra.",
            "encode number": b"\x80\x02]c_codecs\nencode\nK\x01\x85Ra.",
            "encode chinese": b"\x80\x02]c_codecs\nencode\nX\x03\x00\x00\x00\xe4\xb8\xad\x85Ra.",
            "load number": b"\x80\x02]ctorch.storage\n_load_from_bytes\nK\x01\x85Ra.",
            "load list": b"\x80\x02]ctorch.storage\n_load_from_bytes\n]\x85Ra.",
            "load nothing": b"\x80\x02]ctorch.storage\n_load_from_bytes\nX\x00\x00\x00\x00\x85Ra.",
            "load pickles": pickled(
                [
                    {
                        "pred_score": tensor(
                            Call("torch.storage._load_from_bytes", pickle.dumps(1) * 5), (1,), (1,)
                        ),
                        "gt_label": 0,
                    }
                ]
            )[0],
            "from numpy": b"\x80\x02]ctorch\nfrom_numpy\n)Ra.",
            "dtype": pickle.dumps(rows()).replace(b"f4", b"f9"),
            "order": pickle.dumps(rows()).replace(b"<", b"?"),
            "huge key": pickle.dumps([{2**20000: 1}]),
            "escapes": pickle.dumps([{ESCAPE: 1}]),
            "deep": nested_pickle(20_000),
            "nothing": b"",
            "text file": b"hello",
        }.items()
    }
    return files


def _laughing_list(levels=60):
    """A list of two of the same list of two ..., a score of exponentially many classes."""
    return b"]K\x01aq\x630" + b"](h\x63h\x63eq\x630" * levels + b"h\x63"


def _same_row(videos=200_000, classes=50_000):
    """Rows that are all the same one, of many classes."""
    score = b"X\x0a\x00\x00\x00pred_score](" + b"K\x01" * classes + b"e"
    row = b"}q\x00(" + score + b"X\x08\x00\x00\x00gt_labelK\x00u0"
    return b"\x80\x02" + row + b"](" + b"h\x00" * videos + b"e."


def _same_bytes(times=20_000, length=200_000):
    """One text, encoded anew each time: a copy each."""
    text = b"X" + struct.pack("<I", length) + b"a" * length + b"q\x000"
    return b"\x80\x02" + text + b"c_codecs\nencode\nq\x010](" + b"h\x01h\x00\x85R" * times + b"e."


def _same_storage(times=20_000):
    """One storage within the pickle, loaded anew each time."""
    inside = legacy_file(Storage(np.ones(20_000)))
    text = b"\x8e" + struct.pack("<Q", len(inside)) + inside + b"q\x000"
    return (
        b"\x80\x04"
        + text
        + b"ctorch.storage\n_load_from_bytes\nq\x010]("
        + b"h\x01h\x00\x85R" * times
        + b"e."
    )


def main(folder):
    """Read all of them, after writing them to a folder."""
    from bounded_reading import bound_memory, outcome

    from trn_jax.convert import prediction_dump, read_torch_file
    from trn_jax.evaluation import score_files as files_of_scores

    del prediction_dump  # loaded now, as the bound counts from here
    readers = (
        ("weights", weights(), read_torch_file),
        ("scores", score_files(), files_of_scores.read),
    )
    bound_memory(400)
    for kind, files, read in readers:
        for name, content in files.items():
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.write(content)
            print(json.dumps({"file": f"{kind}: {name}"} | outcome(read, path)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
