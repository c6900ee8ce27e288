"""Files with several networks, in several files, behind prefixes, and names changed by hand."""

import json
import re

import numpy as np
import pytest
from state_dicts import LAYERS, RESNET, check, state_of
from torch_files import legacy_file, safetensors_file, whole, zip_file

from trn_jax import convert
from trn_jax.convert import read_torch_file
from trn_jax.errors import UserError


def network(value, size=10):
    return {"conv.weight": whole(np.full(size, float(value))), "conv.bias": whole([float(value)])}


@pytest.fixture(params=[zip_file, legacy_file])
def read(request, tmp_path):
    def read_content(content, key=None):
        path = tmp_path / "model.pth"
        path.write_bytes(request.param(content))
        return read_torch_file(path, key)

    return read_content


def value(found):
    return found["conv.bias"][0]


@pytest.mark.parametrize(
    ("content", "key", "taken"),
    [
        (dict(state_dict_ema=network(2), state_dict=network(1)), "state_dict_ema", "state_dict"),
        (dict(model_ema=network(2), model=network(1)), "model_ema", "model"),
        (dict(ema=dict(module=network(2)), net=network(1)), "ema.module", "net"),
        (dict(ema_state_dict=network(2), state_dict=network(1)), "ema_state_dict", "state_dict"),
        (dict(swa=network(2), anything=network(1)), "swa", "anything"),
    ],
)
def test_averaged_weights_are_taken_if_asked(read, content, key, taken):
    found = read(content)
    assert value(found) == 1 and ".".join(found.path) == taken
    assert any(f"--key={key}" in line for line in found.left_unread)
    assert any(f"{key} (2 tensors, 11 numbers)" in line for line in found.left_unread)
    found = read(content, key)
    assert value(found) == 2 and ".".join(found.path) == key


def test_averaged_weights_alone_are_taken(read):
    found = read({"model_ema": network(2), "epoch": 3, "optimizer": {"m": whole(np.ones(99))}})
    assert value(found) == 2 and found.left_unread == []


@pytest.mark.parametrize("names", [("student", "teacher"), ("generator", "discriminator")])
@pytest.mark.parametrize("outer", [None, "model"])
def test_networks_without_an_obvious_one_need_a_key(read, names, outer):
    content = {names[0]: network(1), names[1]: network(2, size=5), "steps": whole([1])}
    content = content if outer is None else {outer: content}
    keys = names if outer is None else [f"{outer}.{name}" for name in names]
    with pytest.raises(
        UserError, match=rf"2 networks(?s:.*){keys[0]} \(2 .* 11 numbers\)(?s:.*) 6 n"
    ):
        read(content)
    for number, key in enumerate(keys, start=1):
        assert value(read(content, key)) == number
        assert value(read(content, key.rpartition(".")[2])) == number
    with pytest.raises(UserError, match=f"key 'studant'(?s:.*){keys[1]} \\(2 tensors, 6 numbers"):
        read(content, "studant")


def test_a_network_and_its_small_head_are_no_rivals(read):
    found = read({"trunk": network(1, 500), "classifier": network(2, 9)})
    assert value(found) == 1
    assert found.left_unread == ["left unread: classifier (2 tensors, 10 numbers)"]


def test_a_key_may_be_the_beginning_of_names(read, tmp_path):
    flat = {f"{part}.{n}": v for part in ("a", "module.b") for n, v in network(part == "a").items()}
    assert list(read({"state_dict": flat}, "a")) == ["a.conv.weight", "a.conv.bias"]
    assert list(read({"state_dict": flat}, "state_dict.b")) == list(read(flat, "b"))
    arrays = {"a.x.w": np.ones(3, np.float32), "b.x.w": np.zeros(3, np.float32)}
    (tmp_path / "model.safetensors").write_bytes(safetensors_file(arrays))
    assert list(read_torch_file(tmp_path / "model.safetensors", "b.x")) == ["b.x.w"]
    with pytest.raises(UserError, match=r"key 'c'(?s:.*) a \(1 tensor, 3 numbers\)"):
        read_torch_file(tmp_path / "model.safetensors", "c")


# Shards


ARRAYS = {f"layer{i}.weight": np.full(3, i, np.float32) for i in range(5)}


def write_shards(folder, *, extension="safetensors", stem="model", index=True):
    files = {}
    for number, names in enumerate((["layer0.weight", "layer3.weight"], ["layer1.weight"])):
        name = f"{stem}-{number + 1:05d}-of-00002.{extension}"
        part = {n: ARRAYS[n] for n in names}
        data = (
            safetensors_file(part)
            if extension == "safetensors"
            else zip_file({n: whole(a) for n, a in part.items()})
        )
        (folder / name).write_bytes(data)
        files |= dict.fromkeys(names, name)
    if index:
        write_index(folder, files, f"{stem}.{extension}.index.json")
    return files


def write_index(folder, files, name="model.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))


@pytest.mark.parametrize(
    ("extension", "stem"), [("safetensors", "model"), ("bin", "pytorch_model")]
)
def test_shards_are_found_by_index_folder_or_part(tmp_path, extension, stem):
    expected = write_shards(tmp_path, extension=extension, stem=stem).keys()
    places = [f"{stem}.{extension}.index.json", "", f"{stem}-00001-of-00002.{extension}"]
    hashes = set()
    for place in [*places, f"{stem}-00002-of-00002.{extension}"]:
        found = read_torch_file(tmp_path / place)
        assert found.keys() == expected
        for name, array in found.items():
            np.testing.assert_array_equal(array, ARRAYS[name])
        hashes.add(convert.file_sha256(tmp_path / place))
    assert len(hashes) == 1


def test_shards_without_an_index_are_found_by_their_numbers(tmp_path):
    files = write_shards(tmp_path, index=False)
    assert read_torch_file(tmp_path).keys() == files.keys()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 of the 2 files (?s:.*)model-00002-of-00002"):
        read_torch_file(tmp_path / "model-00001-of-00002.safetensors")


def test_shards_that_are_missing_or_do_not_fit_are_named(tmp_path):
    files = write_shards(tmp_path)
    write_index(tmp_path, files | {"layer9.weight": "model-00002-of-00002.safetensors"})
    with pytest.raises(UserError, match=r"00002-of-00002.*lacks 1 .*'layer9\.weight'"):
        read_torch_file(tmp_path)
    write_index(tmp_path, files | {"layer9.weight": "other.safetensors"})
    with pytest.raises(UserError, match=r"1 of the 3 files (?s:.*)other\.safetensors"):
        read_torch_file(tmp_path)


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "a/b.bin", "..", "", "a\\b", 3])
def test_an_index_does_not_lead_elsewhere(tmp_path, name):
    folder = tmp_path / "weights"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(zip_file({"w": whole([1.0])}))
    write_index(folder, {"w": name})
    with pytest.raises(UserError, match="file of 'w' is "):
        read_torch_file(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 1}', "\0"])
def test_an_index_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"index\.json"):
        read_torch_file(tmp_path)


# Prefixes


def torchvision_state(model):
    expected, theirs = state_of(model, (*RESNET, (r"head/fc", "fc")))
    theirs = {n: v for n, v in theirs.items() if not n.startswith("fc.")}
    return expected, theirs


PREFIXES = (
    *("_orig_mod.", "module.", "model.", "backbone.", "module.model._orig_mod.encoder.", "a.b.c."),
    *("encoder_q.", "module.encoder_q.", "net._fsdp_wrapped_module."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_cut_off(build, prefix):
    expected, theirs = torchvision_state(build())
    model = build()
    state = {prefix + name: value for name, value in theirs.items()}
    convert.load_state_dict(model, state, backbone_only=True)
    check(model, expected, but=["head/"])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "module.model.", "model.module."])
def test_prefixes_before_names_of_mmaction2(build, prefix):
    expected, theirs = state_of(build(), LAYERS)
    model = build()
    state = {prefix + name: value for name, value in theirs.items()}
    assert convert.num_classes(convert.shapes(state)) == 5
    convert.load_state_dict(model, state)
    check(model, expected)


def test_prefixes_of_some_names_and_in_the_middle(build):
    expected, theirs = state_of(build(), LAYERS)
    model = build()
    state = {
        re_named(name, "backbone.", "backbone._orig_mod.module."): value
        for name, value in theirs.items()
    }
    convert.load_state_dict(model, state)
    check(model, expected)
    expected, theirs = state_of(build(), (*RESNET, (r"head/fc", "fc")))
    model = build()
    state = {n if n.startswith("fc") else f"encoder.{n}": v for n, v in theirs.items()}
    convert.load_state_dict(model, state, take_classifier=True)
    check(model, expected)


def re_named(name, old, new):
    return new + name[len(old) :] if name.startswith(old) else name


def test_another_network_behind_a_prefix_is_left_unread(build):
    expected, theirs = torchvision_state(build())
    other = {name: value + 1 for name, value in theirs.items()}
    for state in (
        with_prefix("encoder_q.", theirs)
        | with_prefix("encoder_k.", other)
        | {"queue": np.ones(3)},
        with_prefix("model.", theirs) | with_prefix("model_ema.module.", other),
        with_prefix("ema.", other) | with_prefix("net.", theirs) | {"n_averaged": np.array(1)},
        theirs | with_prefix("teacher.", other),
        theirs | {"ema_" + n.replace(".", "_"): v for n, v in other.items()},
        with_prefix("model.", theirs) | with_prefix("model.ema.", other),
    ):
        model = build()
        rows = convert.load_state_dict(model, state, backbone_only=True)
        check(model, expected, but=["head/"])
        (line,) = convert.unread(state, rows)
        assert int(re.match(r"left unread: (\d+) tensors", line)[1]) >= len(other)
    state = with_prefix("student.", theirs) | with_prefix("teacher.", other)
    with pytest.raises(UserError, match=r"2 networks(?s:.*)student \((?s:.*)teacher \("):
        convert.load_state_dict(build(), state, backbone_only=True)


def with_prefix(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def test_bninception_of_the_first_mmaction():
    names = ("conv1_7x7_s2", "inception_3a_1x1", "inception_3a_double_3x3_reduce")
    state = {f"backbone.{name}{end}": np.ones(3) for name in names for end in (".bias", "_bn.bias")}
    found = convert.shapes(state | {"cls_head.fc_cls.bias": np.ones(9)})
    assert convert.num_classes(found) == 9 and len(found) == 7


@pytest.mark.parametrize(
    "names",
    [
        [
            "trunk.blocks.0.mixer.qkv.weight",
            "trunk.blocks.0.mixer.scale.weight",
            "register_tokens",
            "positions",
            "final_scale.bias",
        ],
        ["stem.0.weight", "trunk_output.block1.block1-0.f.a.0.weight", "x.weight"],
        ["patch_embed.backbone.conv.weight", "layers.0.mixer.weight", "layers.1.mixer.weight"],
    ],
)
def test_unknown_schemes_are_called_so(build, names):
    with pytest.raises(UserError) as caught:
        convert.load_state_dict(build(), {name: np.ones(3) for name in names})
    text = str(caught.value)
    assert text.startswith("unknown naming scheme") and names[0] in text
    assert "torchvision" in text and "hugging_face_swin" in text and "--rename" in text


# Changes by hand


def test_names_are_changed_and_ignored(build, tmp_path):
    expected, theirs = torchvision_state(build())
    odd = {f"visual-trunk/{n}".replace("weight", "gamma"): v for n, v in theirs.items()}
    content = safetensors_file(odd | {"projector.0.gamma": np.ones(3)})
    (tmp_path / "w.safetensors").write_bytes(content)
    file = read_torch_file(tmp_path / "w.safetensors")
    rename = [("^visual-trunk/", ""), ("gamma", "weight")]
    found, origins = convert.selected(file, rename=rename, ignore=["projector.*"])
    assert "ignored: 1 tensors projector.*" in found.left_unread
    assert origins["conv1.weight"] == "visual-trunk/conv1.gamma"
    model = build()
    convert.load_state_dict(model, found, backbone_only=True)
    check(model, expected, but=["head/"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rename=[("nothing", "x")]), "--rename=nothing=x changes none"),
        (dict(rename=[("(", "x")]), r"--rename=\(=x: not a regular expression"),
        (dict(rename=[("a", r"\9")]), r"--rename=a=\\9: not a regular expression"),
        (dict(rename=[("[ab]", "x")]), "gives two tensors the same name"),
        (dict(ignore=["c*"]), r"--ignore=c\* matches none"),
    ],
)
def test_changes_that_make_no_sense_are_refused(read, options, message):
    found = read({"a": whole([1.0]), "b": whole([1.0])})
    with pytest.raises(UserError, match=message):
        convert.selected(found, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_weights_that_are_not_finite_are_refused(build, bad, dtype):
    expected, theirs = state_of(build(), LAYERS)
    name = "backbone.layer2.0.conv1.bn.running_var"
    with np.errstate(over="ignore"):
        theirs[name] = theirs[name].astype(dtype)
        theirs[name][:2] = bad
    model = build()
    with pytest.raises(UserError, match=r"layer2.*running_var: 2"):
        convert.load_state_dict(model, theirs)
    check(model, expected, but=["."])  # it kept its own
