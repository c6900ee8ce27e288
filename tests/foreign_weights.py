"""Malformed and malicious files of weights, all of them small on disk."""

import json
import pickle
import struct

import numpy as np
from malformed_archives import (
    ESCAPE,
    GIGABYTE,
    HUGE,
    deflated_zip,
    laughs,
    nested_pickle,
    rebuilt,
    storage_of,
    torch_zip,
    zeros,
)
from torch_files import (
    MAGIC,
    Call,
    Storage,
    legacy_file,
    npz_file,
    tensor,
    whole,
    zip_file,
)


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
