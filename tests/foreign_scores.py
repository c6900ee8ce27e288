"""Malformed and malicious files of scores, all of them small on disk."""

import json
import pickle
import struct
import zipfile

import numpy as np
from malformed_archives import (
    ESCAPE,
    GIGABYTE,
    HUGE,
    compressed,
    deflated_zip,
    nested_pickle,
    npy,
    npz,
    zeros,
)
from torch_files import (
    Call,
    Storage,
    legacy_file,
    npz_file,
    pickled,
    tensor,
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
