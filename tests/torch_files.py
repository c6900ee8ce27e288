"""Writers of PyTorch's file formats, `.safetensors` and `.npz`, for tests without PyTorch."""

import io
import itertools
import json
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}


class Name:
    """A global of a module that need not exist."""

    def __init__(self, name):
        self.name = name

    def __call__(self):
        raise NotImplementedError


TYPES = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
    "complex64": "ComplexFloat",
}


class Storage:
    keys = itertools.count()

    def __init__(self, values, view=None):
        self.values = np.asarray(values).reshape(-1)
        self.key = str(next(self.keys))
        self.view = view
        self.type = Name(f"torch.{TYPES[self.values.dtype.name]}Storage")
        self.size = self.values.size


class Call:
    """Pickled as a call of `name`, then `state` for the object and `items` for its entries."""

    def __init__(self, name, *args, state=None, items=None):
        self.parts = (Name(name), args, state, None, items and iter(items))

    def __reduce__(self):
        return self.parts


def tensor(storage, shape, strides, offset=0, version="_v2"):
    more = () if version == "" else (False, OrderedDict())
    return Call(f"torch._utils._rebuild_tensor{version}", storage, offset, shape, strides, *more)


def whole(values):
    """A contiguous tensor of its own."""
    values = np.asarray(values)
    strides = np.cumprod((1, *values.shape[:0:-1]))[::-1] if values.ndim else ()
    return tensor(Storage(values), values.shape, tuple(int(stride) for stride in strides))


class Pickler(pickle._Pickler):
    def __init__(self, file, protocol, legacy):
        super().__init__(file, protocol)
        self.legacy = legacy
        self.storages = {}

    def save_name(self, name):
        self.write("c{}\n{}\n".format(*name.name.rsplit(".", 1)).encode())

    dispatch = pickle._Pickler.dispatch | {Name: save_name}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value
        view = (value.view,) if self.legacy else ()
        return ("storage", value.type, value.key, "cpu", value.size, *view)


def pickled(value, protocol=2, legacy=False):
    file = io.BytesIO()
    pickler = Pickler(file, protocol, legacy)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def zip_file(value, protocol=2, byteorder=b"little", compression=zipfile.ZIP_STORED, **replaced):
    data, storages = pickled(value, protocol)
    members = {"data.pkl": data, "byteorder": byteorder}
    members |= {f"data/{key}": s.values.tobytes() for key, s in storages.items()}
    members |= {name.replace("_", "."): content for name, content in replaced.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return file.getvalue()


def legacy_file(value, protocol=2, system=SYSTEM, size_of=len):
    data, storages = pickled(value, protocol, legacy=True)
    head = [pickle.dumps(part, protocol) for part in (MAGIC, 1001, system)]
    tail = [pickle.dumps(list(storages), protocol)]
    for storage in storages.values():
        tail.append(struct.pack("<q", size_of(storage.values)) + storage.values.tobytes())
    return b"".join([*head, data, *tail])


def safetensors_file(arrays, **changed):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    names |= {"int64": "I64", "bool": "BOOL"}
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        } | changed
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def npz_file(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def surroundings():
    """What else checkpoints hold: nothing of it is there when they are read."""
    config = Call("mmcv.utils.config.ConfigDict", items=[("type", "TSN"), ("depth", 50)])
    return {
        "epoch": 7,
        "best": Call("numpy.core.multiarray.scalar", Call("numpy.dtype", "f8", 0, 1), b"12345678"),
        "args": Call("argparse.Namespace", state={"lr": 0.1, "shape": Call("torch.Size", (1, 2))}),
        "meta": {"config": config, "device": Call("torch.device", "cpu"), "names": {"a", "b"}},
        "optimizer": {"state": {0: {"momentum": whole(np.ones(4))}}, ("a", 1): {1.5: None}},
        "frozen": frozenset({1}),
        "big": 2**80,
        "path": Call("pathlib.PosixPath", "a", "b"),
    }
