"""Reads configurations: inherited values, checks, and JSON."""

import functools
import json
import operator
import re
import statistics
from typing import Any

from trn_jax.allowed import Allowed
from trn_jax.config import allowed, allowed_in_views, base, view
from trn_jax.errors import UserError, did_you_mean, listed
from trn_jax.files import reading

# Not only dots: no name may lead out of the folder of the results.
_PROTOCOL = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]+")
_RESIZE = 8 / 7  # of the short side before a crop: 256 for the 224 of ImageNet


def resolved_views(config):
    """All views, with what they inherit filled in.

    Returns:
        `{"data.train": section, "data.val": ..., "protocols.efficient": ...}`.
    """
    return {name: _inherit(config, section) for name, section in _view_sections(config).items()}


def _view_sections(config):
    protocols = {f"protocols.{name}": section for name, section in config.protocols.items()}
    return {"data.train": config.data.train, "data.val": config.data.val} | protocols


def _inherit(config, section):
    found = section.copy_and_resolve_references()
    if found.num_segments is None:
        found.num_segments = config.model.num_segments
    if found.short_side is None:
        found.short_side = config.short_side or round(_RESIZE * config.size)
    if found.crop_size is None and found.crop != "three":
        found.crop_size = config.size
    found.crop_size = found.crop_size or found.short_side
    return found


def resolved(config):
    """A copy of a configuration whose views have what they inherit."""
    found = config.copy_and_resolve_references()
    for name, section in resolved_views(config).items():
        functools.reduce(operator.getitem, name.split(".", 1), found).update(section)
    return found


def protocol_names(config, wanted):
    """The names of the protocols to run: `wanted` ("all" or names with commas between them).

    Raises:
        UserError: the recipe has no protocol of that name.
    """
    if not config.protocols:
        raise UserError("the recipe defines no protocols; add one, such as protocols.efficient")
    if wanted == "all":
        return list(config.protocols)
    names = list(dict.fromkeys(wanted.split(",")))
    for name in names:
        if name not in config.protocols:
            hint = did_you_mean(name, config.protocols)
            raise UserError(
                f"the recipe has no protocol {name!r}{hint} It has: {', '.join(config.protocols)}"
            )
    return names


def check_values(config):
    """Check every value against what its key allows, and the names of the protocols.

    Raises:
        UserError: some are not allowed; all of them are named with what was expected.
    """
    problems = [
        f"protocols.{name!r}: expected a name of letters, digits, '_', '-' and '.', since results "
        "are written to files of that name"
        for name in config.protocols
        if not _PROTOCOL.fullmatch(name)
    ]
    problems += _unset_keys(config)
    if problems:
        raise UserError(_listed(problems))
    places: list[tuple[Any, str, str, Allowed]]
    places = [(config, key, key, values) for key, values in allowed().items()]
    for name, section in _view_sections(config).items():
        places += [(section, k, f"{name}.{k}", values) for k, values in allowed_in_views().items()]
    for section, key, name, values in places:
        value = functools.reduce(operator.getitem, key.split("."), section)
        if value is not None and not values.allows(value):
            problems.append(f"{name}={value!r}: expected {values}")
    problems = problems or [
        f"{name}.crop_size=0 means short_side, but {name}.short_side=0; expected pixels"
        for name, section in resolved_views(config).items()
        if section.crop_size == 0
    ]
    if problems:
        raise UserError(_listed(problems))


def _unset_keys(config):
    """Problems with protocols that are no views, and with keys that may not be `None`."""
    problems = [
        f"{name}: expected the keys of trn_jax.config.view(...)"
        for name, section in _view_sections(config).items()
        if not isinstance(section, type(config)) or set(section) != set(view())
    ]
    schema = base(dataset="", model="").to_dict()
    schema["protocols"] = {name: view().to_dict() for name in config.protocols}
    expected = flat(schema)
    return problems + [
        f"{key}=None: expected a value of type {type(expected[key]).__name__}"
        for key, value in flat(config.to_dict()).items()
        if value is None and expected.get(key) is not None
    ]


def _listed(problems):
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} settings are invalid:{listed(problems)}"


def set_model_option(config, text):
    """Set one option of the model of a configuration, from text such as `shift_place=block`.

    Raises:
        UserError: there is no such option, or the value is of another type.
    """
    key, equals, value = text.partition("=")
    options = sorted(set(config.model) - {"name", "num_classes", "num_segments"})
    if not equals or key not in options:
        raise UserError(
            f"{text!r} is not an option of a model; expected <key>=<value> with one of the keys "
            f"{', '.join(options)}"
        )
    kind = config.model.get_type(key)
    words = {"true": True, "false": False}
    try:
        if kind is tuple:
            config.model[key] = tuple(map(float, value.strip("()").split(",")))
        else:
            config.model[key] = words[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        kinds = {bool: "true or false", tuple: "numbers separated by commas"}
        expected = kinds.get(kind, f"a value of type {kind.__name__}")
        raise UserError(f"the option {key} of the model is {value!r}, not {expected}") from None


# Keys of earlier versions, with the only value that is still understood.
REMOVED: dict[str, Any] = {
    "model.train_relations": None,
    "optim.warmup_start": 0.1,
}


def to_json(config):
    """A configuration as text, with sorted keys."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def shared_json(config):
    """A configuration as text, without what may differ between the processes of a run."""
    values = config.to_dict()
    del values["data_dir"], values["data"]["num_threads"], values["data"]["num_workers"]
    return json.dumps(values, sort_keys=True)


def from_dict(values):
    """The configuration that a checkpoint was made from.

    Keys that did not exist when it was made have their defaults.

    Raises:
        UserError: it is none.
    """

    def tuples(value):
        if isinstance(value, dict):
            return {key: tuples(entry) for key, entry in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    with reading("the configuration", "one of trn_jax"):
        values = _without_removed(tuples(values))
        config = base(dataset=values["data"]["dataset"], model=values["model"]["name"])
        del config.protocols.efficient
        for name in values["protocols"]:
            config.protocols[name] = view()
        config.update(values)  # which compares types
        if "size" not in values:
            _let_inherit(config)
        return config


def _let_inherit(config):
    """Unset what the views of earlier versions, which set everything, would inherit anyway."""
    sections = _view_sections(config).values()
    config.size = statistics.mode(s.crop_size for s in sections if s.crop != "three")
    config.short_side = statistics.mode(s.short_side for s in sections if s.short_side)
    for section in sections:
        if section.crop_size == section.short_side != config.size:
            section.crop_size = 0
        for key, inherited in (
            ("num_segments", config.model.num_segments),
            ("crop_size", config.size),
            ("short_side", config.short_side),
        ):
            section[key] = None if section[key] == inherited else section[key]


def _without_removed(values):
    """Drop the keys of earlier versions.

    Raises:
        UserError: one has a value that this version does not understand.
    """
    for key, last in REMOVED.items():
        section, _, name = key.partition(".")
        if values[section].pop(name, last) != last:
            raise UserError(f"{key} is no longer a setting; expected its last default, {last!r}")
    return values


def flat(tree, prefix=""):
    """Nested dicts as one, with the keys joined by dots."""
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
