"""Files of weights: every format, every kind of tensor, and files that mean harm."""

import hashlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest
from torch_files import (
    TYPES,
    Call,
    Name,
    Storage,
    legacy_file,
    npz_file,
    pickled,
    safetensors_file,
    surroundings,
    tensor,
    whole,
    zip_file,
)

from trn_jax.convert import check_name, file_sha256, read_torch_file
from trn_jax.errors import UserError

FORMATS = {"zip": zip_file, "legacy": legacy_file}


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "model.pth"
        path.write_bytes(data)
        return read_torch_file(path)

    return read_bytes


@pytest.fixture(params=FORMATS)
def write(request):
    return FORMATS[request.param]


# What is read


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_dtype_arrives_bit_by_bit(read, write, dtype, protocol):
    values = np.array([[0, 1, 2], [3, 100, 7]]).astype(jnp.dtype(dtype))
    found = read(write({"layer.weight": whole(values)}, protocol))
    assert list(found) == ["layer.weight"]
    assert found["layer.weight"].dtype == values.dtype
    np.testing.assert_array_equal(found["layer.weight"], values)


def test_half_and_bfloat16_keep_their_precision(read, write):
    values = np.linspace(-3, 3, 7, dtype=np.float32)
    for dtype in ("float16", "bfloat16"):
        found = read(write({"w": whole(values.astype(jnp.dtype(dtype)))}))["w"]
        np.testing.assert_array_equal(
            found.astype(np.float32), values.astype(jnp.dtype(dtype)).astype(np.float32)
        )


def test_views_are_taken_apart_and_shared_memory_stays_shared(read, write):
    storage = Storage(np.arange(24, dtype=np.float32))
    matrix = storage.values.reshape(4, 6)
    found = read(
        write(
            {
                "whole": tensor(storage, (4, 6), (6, 1)),
                "transposed": tensor(storage, (6, 4), (1, 6)),
                "part": tensor(storage, (2, 3), (6, 2), offset=7),
                "column": tensor(storage, (4,), (6,), offset=5),
                "repeated": tensor(storage, (5, 2), (0, 1)),
                "scalar": tensor(storage, (), (), offset=3),
                "empty": tensor(storage, (0, 4), (4, 1)),
            }
        )
    )
    np.testing.assert_array_equal(found["whole"], matrix)
    np.testing.assert_array_equal(found["transposed"], matrix.T)
    np.testing.assert_array_equal(found["part"], matrix[1:3, 1::2])
    np.testing.assert_array_equal(found["column"], matrix[:, 5])
    np.testing.assert_array_equal(found["repeated"], [[0, 1]] * 5)
    assert found["scalar"].shape == () and found["scalar"] == 3
    assert found["empty"].shape == (0, 4)
    assert np.shares_memory(found["whole"], found["transposed"])
    with pytest.raises(ValueError, match="read-only"):
        found["whole"][0, 0] = 1


def test_files_of_before_version_0_4(read):
    norm = np.arange(5, dtype=np.float32)
    # Views of storages, the first way to rebuild a tensor, rank-2 statistics, names in bytes.
    storage = Storage(np.arange(10, dtype=np.float32), view=("7", 4, 6))
    parameter = Call(
        "torch.nn.parameter.Parameter",
        tensor(Storage(norm), (1, 5), (5, 1), version=""),
        state=(True, True, OrderedDict()),
    )
    data = legacy_file(Call("collections.OrderedDict", [["bn.weight", parameter]]), protocol=2)
    assert read(data)["bn.weight"].shape == (1, 5)
    found = read(legacy_file({"w": tensor(storage, (2, 2), (2, 1), offset=1, version="")}))
    np.testing.assert_array_equal(found["w"], [[5, 6], [7, 8]])


def test_parameters_and_tensors_of_untyped_storages(read, write):
    values = np.arange(3, dtype=np.uint8)
    typed = Call(
        "torch._utils._rebuild_tensor_v3",
        Storage(np.array([1, 2, 300], np.uint16).view(np.uint8)),
        *(0, (3,), (1,), False, OrderedDict(), Name("torch.uint16")),
    )
    parameter = Call("torch._utils._rebuild_parameter", whole(values), True, OrderedDict())
    found = read(write({"parameter": parameter, "typed": typed}))
    np.testing.assert_array_equal(found["parameter"], values)
    np.testing.assert_array_equal(found["typed"], np.array([1, 2, 300], np.uint16))


def test_subclasses_of_tensors(read, write):
    """As PyTorch 2 pickles them: buffers, tensors with attributes, parameters of subclasses."""
    values = np.arange(6.0).reshape(2, 3)

    def of_type(kind, inner, state):
        function, arguments, *_ = inner.parts
        return Call("torch._tensor._rebuild_from_type_v2", function, kind, arguments, state)

    parameter = Call(
        "torch._utils._rebuild_parameter_with_state", whole(values), True, {}, {"a": 1}
    )
    found = read(
        write(
            {
                "buffer": of_type(Name("torch.Tensor"), whole(values), {"persistent": True}),
                "subclass": of_type(Name("lib.Sub"), whole(values + 1), {}),
                "parameter": of_type(Name("lib.Sub"), parameter, {"note": [1]}),
            }
        )
    )
    np.testing.assert_array_equal(found["buffer"], values)
    np.testing.assert_array_equal(found["subclass"], values + 1)
    np.testing.assert_array_equal(found["parameter"], values)
    wrapper = Call("torch._utils._rebuild_wrapper_subclass", 1, 2)
    with pytest.raises(UserError, match=r"'d'.*_rebuild_wrapper_subclass of lib\.DT"):
        read(write({"d": of_type(Name("lib.DT"), wrapper, {}), "w": whole(values)}))


def test_subclasses_as_pytorch_writes_them(tmp_path):
    torch = pytest.importorskip("torch")

    class Sub(torch.Tensor):
        pass

    values = torch.arange(6.0).reshape(2, 3)
    noted = (values + 1).as_subclass(Sub)
    noted.note = "text"
    parameter = torch.nn.Parameter(values + 2)
    parameter.extra = 3
    state = {"sub": noted, "parameter": parameter, "of_sub": torch.nn.Parameter(noted)}
    if hasattr(torch.nn, "Buffer"):
        state["buffer"] = torch.nn.Buffer(values)
    Sub.__module__, Sub.__qualname__ = __name__, "Sub"
    globals()["Sub"] = Sub
    torch.save(state, tmp_path / "model.pth")
    found = read_torch_file(tmp_path / "model.pth")
    assert list(found) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.detach().numpy())


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: surroundings() | {"state_dict": state},
        lambda state: surroundings() | {"model_state": {"net": state}, "steps": whole([3])},
        lambda state: surroundings() | {"generator": state},
        lambda state: Call("utils.Checkpoint", items=[("model", state)]),
        lambda state: {"model": state, "scheduler": Call("builtins.getattr", Name("a.b"), "c")},
    ],
)
def test_the_state_dict_is_found_and_the_rest_is_inert(read, write, wrap, protocol):
    state = Call(
        "collections.OrderedDict",
        state={"_metadata": OrderedDict(version=1)},
        items=[("a.weight", whole(np.arange(3.0))), ("a.count", whole(np.int64(3))), ("n", 1)],
    )
    found = read(write(wrap(state), protocol))
    assert list(found) == ["a.weight", "a.count"]
    np.testing.assert_array_equal(found["a.weight"], np.arange(3.0))
    assert found["a.count"] == 3


def test_storages_that_no_weight_needs_are_not_read(read):
    data = zip_file({"state_dict": {"w": whole([1.0])}, "optimizer": {"m": whole(np.ones(99))}})
    broken = data.replace(np.ones(99).tobytes(), np.zeros(99).tobytes())  # its checksum fails
    assert broken != data
    np.testing.assert_array_equal(read(broken)["w"], [1.0])


def test_safetensors(read):
    arrays = {
        "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "conv.count": np.array(4),
        "mask": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
    }
    for dtype in ("float16", "bfloat16", "float64"):
        arrays[dtype] = np.array([1.5, -2]).astype(jnp.dtype(dtype))
    found = read(safetensors_file(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_npz_is_refused_with_the_way_to_convert_it(read):
    with pytest.raises(UserError, match=r"model\.pth.*save_file.*safetensors"):
        read(npz_file(a=np.zeros(2)))


def test_the_hash_is_that_of_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    assert file_sha256(path) == hashlib.sha256(b"weights").hexdigest()


# What is refused


class Attack:
    def __init__(self, function, *args):
        self.parts = (function, args)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("place", ["alone", "zip", "legacy", "late", "subclass", "state"])
@pytest.mark.parametrize("name", ["system", "eval", "popen", "import", "dotted"])
def test_pickles_that_ask_to_run_code_are_refused_and_not_executed(read, tmp_path, place, name):
    import subprocess

    mark = tmp_path / "attacked"
    attack = {
        "system": Attack(os.system, f"touch {mark}"),
        "eval": Attack(eval, f"open({str(mark)!r}, 'w')"),
        "popen": Attack(subprocess.Popen, ["touch", str(mark)]),
        "import": Attack(__import__, "os"),
        "dotted": Call("os.path.os.system", f"touch {mark}"),
    }[name]
    data = {
        "alone": lambda: pickled(attack)[0],
        "zip": lambda: zip_file({"state_dict": {"w": attack}}),
        "legacy": lambda: legacy_file(attack, protocol=4),
        "late": lambda: zip_file({"state_dict": {"w": whole([1.0])}, "meta": [attack]}),
        "subclass": lambda: zip_file(
            Call("torch._tensor._rebuild_from_type_v2", attack, 1, (), {})
        ),
        "state": lambda: legacy_file(Call("collections.OrderedDict", state={"hook": attack})),
    }[place]()
    with pytest.raises(UserError, match=r"model\.pth: refused: .*\.(system|eval|Popen|__import__)"):
        read(data)
    assert not mark.exists()


@pytest.mark.smoke
def test_calls_of_unknown_functions_are_not_executed(read, write):
    calls = []
    # A function that could be imported: only the name of its module is unsuspicious.
    import colorsys

    original, colorsys.rgb_to_hls = colorsys.rgb_to_hls, lambda *args: calls.append(args)
    try:
        found = read(write({"w": whole([1.0]), "x": Call("colorsys.rgb_to_hls", 1, 2, 3)}))
    finally:
        colorsys.rgb_to_hls = original
    assert list(found) == ["w"] and calls == []


def example(write):
    state = {"conv.weight": whole(np.arange(6.0).reshape(2, 3)), "bias": whole(np.ones(2))}
    return write(surroundings() | {"state_dict": state})


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_off_anywhere_is_refused(read, kind):
    arrays = {"a": np.arange(40.0, dtype=np.float32), "b": np.ones(3, np.float32)}
    data = example(FORMATS[kind]) if kind in FORMATS else safetensors_file(arrays)
    assert read(data)
    for length in range(0, len(data), 5):
        with pytest.raises(UserError, match=r"model\.pth: "):
            read(data[:length])


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_read_or_refused_but_nothing_else(read, kind):
    arrays = {"a": np.arange(40.0, dtype=np.float32)}
    data = example(FORMATS[kind]) if kind in FORMATS else safetensors_file(arrays)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            broken[place] = rng.integers(0, 256)
        try:
            assert isinstance(read(bytes(broken)), dict)
        except UserError:
            refused += 1
    assert refused > 20


HUGE = 2**40


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x02\x8e" + struct.pack("<Q", HUGE) + b"x.", id="bytes"),
        pytest.param(b"\x80\x02\x8d" + struct.pack("<Q", HUGE) + b"x.", id="text"),
        pytest.param(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.", id="number"),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"N.", id="frame"),
        pytest.param(b"\x80\x02Nr\xff\xff\xff\xff.", id="memo"),
        pytest.param(b"\x80\x02" + b"(" * 9999 + b"N.", id="marks"),
        pytest.param(b"\x80\x02" + b"]" * 9999 + b"a" * 9998 + b".", id="nested"),
        pytest.param(
            b"\x80\x02}Nq\x000" + b"h\x00h\x00\x86q\x000" * 99 + b"h\x00Ns.", id="hash of tuples"
        ),
        pytest.param(struct.pack("<Q", HUGE) + b'{"a": 1}', id="safetensors header"),
        pytest.param(
            safetensors_file({"a": np.ones(2, np.float32)}, shape=[HUGE]), id="safetensors shape"
        ),
        pytest.param(
            safetensors_file({"a": np.ones(2, np.float32)}, data_offsets=[0, HUGE]),
            id="safetensors offsets",
        ),
        pytest.param(safetensors_file({"a": np.ones(2, np.float32)}) + b"more", id="surplus"),
        pytest.param(
            zip_file({"w": tensor(Storage(np.ones(4)), (HUGE, HUGE), (1, 1))}), id="shape"
        ),
        pytest.param(zip_file({"w": tensor(Storage(np.ones(4)), (5,), (1,))}), id="one too many"),
        pytest.param(zip_file({"w": tensor(Storage(np.ones(4)), (2, 2), (3, 1))}), id="stride"),
        pytest.param(zip_file({"w": tensor(Storage(np.ones(4)), (2,), (1,), 3)}), id="offset"),
        pytest.param(zip_file({"w": tensor(Storage(np.ones(4)), (2,), (-1,), 3)}), id="negative"),
        pytest.param(zip_file({"w": tensor(Storage(np.ones(4)), (2,), (1, 1))}), id="strides"),
        pytest.param(legacy_file({"w": whole([1.0])}, size_of=lambda v: HUGE), id="legacy size"),
        pytest.param(
            legacy_file({"w": tensor(Storage([1.0], view=("0", HUGE, 1)), (1,), (1,))}), id="view"
        ),
        pytest.param(zip_file({"w": whole(np.zeros(4))}, compression=8), id="compressed"),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(read, data):
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_an_expanded_tensor_is_a_view_unless_a_copy_would_be_a_bomb(read, write):
    expanded = tensor(Storage(np.ones(1)), (1000, 1000), (0, 0))
    found = read(write({"w": expanded}))
    assert found["w"].shape == (1000, 1000) and found["w"].strides == (0, 0)
    # A classifier for 2 million classes out of some hundred bytes; and many small ones.
    for state in (
        {"fc.weight": tensor(Storage(np.ones(1)), (2_000_000, 2048), (0, 0))},
        {f"w{i}": expanded for i in range(100)},
        {"w": tensor(Storage(np.ones(5000)), (5000, 4096), (1, 0))},
    ):
        with pytest.raises(UserError, match=r"model\.pth: its [\d,]+ bytes would become"):
            read(write(state))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", r"begins with b'<!DOC"),
        (b"\x89PNG\r\n", "PNG"),
        (pickle.dumps({"a": 1}), "pickle"),
        (pickle.dumps([1], 2) * 6, "pickle"),
        (b"\x80\x02\x00", r"pickle.*\\x00"),
        (b"x" * 257 + b"ustar" + b"x" * 300, "tar archive"),
        (legacy_file({"w": whole([1.0])}, system={"little_endian": False}), "big-endian"),
        (zip_file({"w": whole([1.0])}, byteorder=b"big"), "big-endian"),
        (zip_file({"a": 1, "b": "text"}), r"'a', 'b'"),
        (zip_file({}), r"keys.* none"),
        (zip_file([whole([1.0])]), r"a list"),
        (zip_file({"optimizer": {"m": whole([1.0])}}), "'optimizer'"),
        (zip_file(Call("models.TSN", state={"w": 1})), r"models\.TSN.*state_dict"),
        (zip_file({"model": Call("models.TSN")}), r"'model'.* models\.TSN"),
        (
            zip_file({"w": Call("torch._utils._rebuild_sparse_tensor", 1)} | {"x": whole([1.0])}),
            r"'w'.*\(torch\._utils\._rebuild_sparse_tensor\)",
        ),
        (zip_file({"w": whole([1.0])}, data_pkl=b""), "pickle"),
    ],
)
def test_other_files_are_refused_with_the_reason(read, data, message):
    with pytest.raises(UserError, match=f"(?s)model.pth: .*{message}"):
        read(data)


def test_archives_of_other_kinds_are_refused(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="zip archive"):
        read(file.getvalue())


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: No such file"):
        read_torch_file(tmp_path / "none.pth")
    with pytest.raises(UserError, match="cannot read"):
        read_torch_file(tmp_path)


def test_damaged_weights_are_noticed(read):
    data = zip_file({"w": whole(np.arange(50.0))})
    with pytest.raises(UserError, match="Bad CRC-32"):
        read(data.replace(np.float64(25).tobytes(), np.float64(26).tobytes()))


# PyTorch itself


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_files_written_by_pytorch(tmp_path, zipped, protocol):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    module(torch.ones(4, 3)).sum().backward()
    optimizer = torch.optim.Adam(module.parameters())
    optimizer.step()
    state = OrderedDict(module.state_dict())
    state |= dict(a=base, b=base.t(), c=base[1:3, 2:4], d=base[::2, ::3], e=base.half())
    state |= dict(f=torch.arange(5), g=torch.tensor([True, False]), h=torch.zeros(0, 3))
    state |= dict(i=torch.nn.Parameter(base + 1), j=torch.tensor(1.0).expand(9, 9))
    state |= dict(k=torch.arange(3).to(torch.uint16), l=base.double(), m=base.to(torch.uint8))
    state["bfloat16"] = (base / 7).bfloat16()
    checkpoint = {
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "meta": [torch.device("cpu"), torch.float16, torch.Size([1]), np.float64(3), {1, 2}],
    }
    path = tmp_path / "model.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read_torch_file(path)
    assert list(found) == list(state)
    np.testing.assert_array_equal(
        found.pop("bfloat16").astype(np.float32), state.pop("bfloat16").float().numpy()
    )
    for name, array in found.items():
        expected = state[name].detach().numpy()
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected, err_msg=name)
    assert np.shares_memory(found["a"], found["b"])


def test_a_hash_in_the_name_of_a_file_is_checked(tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()
    good = f"-{digest[:8]}.pth", f"_20210506-{digest[:8]}.pth", ".pth", "-v2.pth", "-20210506.pth"
    for name in good:
        (tmp_path / name).write_bytes(b"weights")
        check_name(tmp_path / name)
    damaged = tmp_path / f"net-{digest[:16]}.pth.tar"
    damaged.write_bytes(b"weight")
    with pytest.raises(UserError, match=f"not with {digest[:16]}"):
        check_name(damaged)
