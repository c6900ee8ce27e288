"""Hub folders: checkpoints that other programs can read, too, without Orbax and without pickles.

A hub folder has `model.safetensors`, parameters and statistics by their names in the model, and
`config.json`: the class names, the sampling contract, the calibration and the whole configuration.
`checksums.json` holds the checksums of both. Everybody may have written one, so `config.json` is
checked before anything is made from it. It names no path of the machine that it was written on.
"""

import json
import os
import re

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from trn_jax.checkpoints import arrays, checksums
from trn_jax.errors import UserError, escaped, first_line
from trn_jax.files import reading
from trn_jax.settings import check_values, from_dict

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LIBRARY = "trn_jax"
FORMAT = 1  # of config.json; readers refuse higher ones
MAX_BYTES = 16 << 20  # of config.json; 100,000 classes with long names take half of it
_SAMPLING = ("num_frames", "seconds", "frame_rate")
_SECTIONS = ("config", "contract", "checkpoint", "metrics", "source", "lists", "versions")
_MOST = 1e300  # larger integers are no floats
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half of a character, which can't be encoded
_POINTER = b"version https://git-lfs"  # what git leaves in place of a large file without git-lfs


def is_one(folder):
    """Whether a folder (a `pathlib.Path`) is a hub folder, or what is left of one.

    A working directory has a `config.json`, too, and other checkpoints have checksums.
    """
    return sum((folder / name).exists() for name in (CONFIG, WEIGHTS, checksums.NAME)) > 1


def is_foreign(folder):
    """Whether the `config.json` of a folder is one of another project."""
    try:
        content = _parsed(folder / CONFIG)
    except UserError:
        return False
    return not isinstance(content, dict) or content.get("library_name") != LIBRARY


def require_intact(directory, items=("model",)):
    """Raise `UserError` if `config.json`, or with "model" in `items` the weights, are corrupt."""
    read_config(directory)  # what is no hub folder has no checksums
    names = [CONFIG, *([WEIGHTS] if "model" in items else [])]
    found = checksums.problems(directory, names)
    if not found:
        return
    hint = "get it from its source again"
    if _is_pointer(directory / WEIGHTS):
        hint = f"{WEIGHTS} is a pointer of git-lfs: run `git lfs pull` in this folder"
    raise UserError(f"the hub folder {directory} is corrupt: {', '.join(found)}; {hint}")


def _is_pointer(path):
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def read_json(directory):
    """Read the metadata of a hub folder in the form of other checkpoints, see `Checkpoint.info`.

    Raises:
        UserError: something is missing in it, or of another type or range.
    """
    content = read_config(directory)
    with reading(directory / CONFIG, "the description of a model"):
        _check_types(content)
        config = from_dict(content["config"])
        names, count = content["class_names"], config.model.num_classes
        config.model.num_classes = count or None  # 0: a model without a head
        check_values(config)
        if names and len(names) != count:
            raise UserError(
                f"class_names has {len(names)} names, but config.model.num_classes={count}"
            )
        _check_agreement(content)
    return {
        "config": content["config"],
        "class_names": names,
        "step": content["checkpoint"]["step"],
        "dtype": content["checkpoint"].get("dtype"),
        "sampling": {key: content["contract"].get(key) for key in _SAMPLING},
        "metrics": content["metrics"],
        "source": content["source"],
        "lists": content["lists"],
        "results": content["results"],
        "calibration": content["calibration"],
        "license": content["license"],
        "version": content["versions"].get("trn_jax"),
    }


def _check_agreement(content):
    """Check that what other programs read is what the model is built from, `config`."""
    config = content["config"]
    data = config.get("data") or {}
    for key, section, value in (
        ("architecture", "model.name", config["model"].get("name")),
        ("num_classes", "model.num_classes", config["model"].get("num_classes")),
        ("multi_label", "data.multi_label", bool(data.get("multi_label"))),
    ):
        if key in content and content[key] != value:
            raise UserError(
                f"{key} is {content[key]!r:.80}, but config.{section}={value!r:.80}; make them "
                "agree"
            )


def read_config(directory):
    """Read the `config.json` of a hub folder, a dict of this format.

    Raises:
        UserError: it is none, or one of another project.
    """
    path = directory / CONFIG
    content = _parsed(path)
    if not isinstance(content, dict) or content.get("library_name") != LIBRARY:
        kinds = ("library_name", "model_type", "architecture", "architectures")
        found = content if isinstance(content, dict) else {}
        kind = ", ".join(f"{key}={found[key]!r:.80}" for key in kinds if key in found)
        raise UserError(
            f"{path} is one of another project ({kind or 'without a known key'}); expected "
            f'"library_name": "{LIBRARY}", as `trn-jax push` writes it. Weights of other projects: '
            f"`trn-jax convert --from=<file>`, or --config.init_from=<file>"
        )
    number = content.get("format")
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise UserError(
            f"{path} has format={number!r:.80}; this version reads up to {FORMAT}. If it is newer, "
            "update trn_jax"
        )
    return content


def _parsed(path):
    def refuse(text):
        raise UserError(f"{text} is no number of JSON")

    with reading(path, "JSON"):
        if not path.is_file():
            raise UserError("this is no file" if path.exists() else "there is no such file")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise UserError(f"it has more than {MAX_BYTES:,} bytes")
        return json.loads(text, parse_constant=refuse)


def _check_types(content):
    expected = dict.fromkeys(_SECTIONS, dict) | {"class_names": list, "results": list}
    for key, kind in expected.items():
        if not isinstance(content[key], kind):
            name = {dict: "an object", list: "a list"}[kind]
            raise UserError(f"{key} is {content[key]!r:.80}, expected {name}")
    for number, name in enumerate(content["class_names"]):
        if not isinstance(name, str) or _SURROGATE.search(name):
            raise UserError(f"class_names[{number}] is {name!r:.80}, expected text in UTF-8")
    step = content["checkpoint"]["step"]
    if type(step) is not int or step < 0:
        raise UserError(f"checkpoint.step is {step!r:.80}, expected a number of steps")
    if not isinstance(content["checkpoint"].get("dtype"), str | None):
        raise UserError("checkpoint.dtype is no text")
    for name, value in content["metrics"].items():
        is_number = isinstance(value, int | float | None) and not isinstance(value, bool)
        if not is_number or abs(value or 0) > _MOST:
            raise UserError(f"metrics.{name} is {value!r:.80}, expected a number")
    for split, each in content["lists"].items():
        if not isinstance(each, dict) or type(each.get("videos")) is not int:
            raise UserError(f"lists.{split} is {each!r:.80}, expected an object with videos")
    if not isinstance(content["license"], str | None) or _SURROGATE.search(
        content["license"] or ""
    ):
        raise UserError(f"license is {content['license']!r:.80}, expected text or null")
    if not isinstance(content["calibration"], dict | None):
        raise UserError(f"calibration is {content['calibration']!r:.80}, expected an object")


def read_model(directory, target):
    """Read the arrays of a hub folder.

    Args:
        directory: the hub folder, a `pathlib.Path`.
        target: see `arrays.read`.

    Raises:
        UserError: the file is malformed, or that of another model.
    """
    path = directory / WEIGHTS
    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
            arrays.check(directory, shapes, target)
            kinds = {name: found.get_dtype() for name, found in slices.items()}
            if wrong := [name for name in target if not kinds[name].startswith(("F", "BF"))]:
                raise UserError(
                    f"{path}: {wrong[0]} has numbers of type {kinds[wrong[0]]}, expected F32"
                )
            return {name: _placed(file.get_tensor(name), leaf) for name, leaf in target.items()}
    except (SafetensorError, AttributeError, TypeError) as error:  # the latter: a dtype of others
        raise UserError(
            f"{path} is malformed or truncated ({escaped(str(error))}); get it again"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _placed(value, leaf):
    """An array with the dtype and the sharding of `leaf`."""
    value = value.astype(leaf.dtype, copy=False)
    return jax.make_array_from_callback(value.shape, leaf.sharding, lambda index: value[index])


def write(folder, values, content, card):
    """Write the files of a hub folder.

    Args:
        folder: a folder that exists and is empty, a `pathlib.Path`.
        values: `{name: array}` of the whole model, see `Checkpoint.weights`.
        content: of `config.json`, all that `read_json` reads.
        card: text of `README.md`, which may be changed later.

    Raises:
        OSError: the disk is full or broken.
    """
    content = {"library_name": LIBRARY, "format": FORMAT} | content
    try:
        save_file(
            {name: np.asarray(value, order="C") for name, value in values.items()},
            os.fspath(folder / WEIGHTS),
            metadata={"format": "flax", "library_name": LIBRARY},
        )
    except SafetensorError as error:  # its only one where arrays are fine
        raise OSError(first_line(error)) from error
    (folder / CONFIG).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    (folder / CARD).write_text(card, encoding="utf-8")
    # Made by a library that keeps it from everybody else.
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
    checksums.write(folder, ignored=[CARD])


def check_written(folder, values):
    """Check that a hub folder is read as it was written, see `write`.

    Raises:
        UserError: something differs, to the bit, or `config.json` is refused.
    """
    require_intact(folder)
    read_json(folder)
    found = load_file(os.fspath(folder / WEIGHTS))
    for name, value in values.items():
        if name not in found or found[name].dtype != value.dtype:
            raise UserError(f"{folder}: {name} was not written; please report this")
        if found[name].tobytes() != value.tobytes():
            raise UserError(f"{folder}: {name} was written with other numbers; please report this")
