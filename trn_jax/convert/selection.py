"""Selects what to load from a file: one of several networks (`--key`), and its tensors."""

import fnmatch
import re
from dataclasses import dataclass

from trn_jax.errors import UserError, did_you_mean, escaped

# Moving averages of the weights of another network in the file.
_AVERAGED = re.compile(r"(?i)(.*[._])?(ema|swa|averaged?|avg)([._].*|\d*)")
# PyTorch modules that wrap others: nn.DataParallel, torch.compile, FSDP, activation checkpointing,
# Lightning Fabric. They may wrap any part of a network.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|"
    r"_forward_module)\."
)
_MIN_SHARE = 0.1  # of the numbers of the largest network; smaller mappings are not networks


class StateDict(dict):
    """Tensors by name, `{name: array}`, of one network in a file.

    Attributes:
        path: the keys of its mapping in the file, a tuple; empty if the names are at the top.
        left_unread: a line for each other network in the file, with the flag that selects it.
    """

    def __init__(self, tensors, path=(), left_unread=()):
        super().__init__(tensors)
        self.path = tuple(path)
        self.left_unread = list(left_unread)


@dataclass(frozen=True)
class Network:
    """A mapping in a file that holds tensors.

    Attributes:
        path: its keys.
        named: whether all keys are usual names for the weights of a checkpoint.
        sizes: `{name: number of elements}`.
    """

    path: tuple
    named: bool
    sizes: dict

    @property
    def key(self):
        """The value of `--key` that selects it."""
        return ".".join(self.path)

    @property
    def size(self):
        """Number of elements."""
        return sum(self.sizes.values())

    def __str__(self):
        count = len(self.sizes)
        amount = f"{count:,} tensor{'s' * (count != 1)}, {self.size:,} numbers"
        return f"{escaped(self.key) or 'top level'} ({amount})"


def averaged(key):
    """Whether a key, or a prefix of names, is one for moving averages of weights."""
    return _AVERAGED.fullmatch(key) is not None


def unwrapped(name):
    """The name of a tensor without PyTorch's wrappers."""
    return _WRAPPERS.sub("", name)


def choose(networks, key=None):
    """Choose the network to load from a file.

    Without a key, this is the first one with a usual name. Averaged weights (EMA, SWA) are chosen
    only if there are no others, as in the programs that published numbers come from.

    Args:
        networks: all in the file, a non-empty list, the likeliest first.
        key: the keys of one, joined by dots; or a prefix of the names of tensors.

    Returns:
        The `Network`, with the names to load in its `sizes`, and a list of lines on the others.

    Raises:
        UserError: no network has this key, or there are several and no key.
    """
    if key is not None:
        return _by_key(networks, key), []
    largest = max(network.size for network in networks)
    large = [network for network in networks if network.size >= _MIN_SHARE * largest]
    plain = [network for network in large if not averaged(network.key)] or large
    chosen = plain[0]
    if len(plain) > 1 and not chosen.named:
        raise several(plain)
    left = [f"left unread: {network}" for network in networks if network is not chosen]
    left += [
        f"{escaped(n.key)} has averaged weights (EMA), which often score better: "
        f"`trn-jax convert --key={escaped(n.key)}` selects them"
        for n in large
        if n is not chosen and averaged(n.key)
    ]
    return chosen, left


def several(networks):
    """The error for a file with several networks, none of which is the obvious one."""
    return UserError(
        f"{len(networks)} networks in one file; choose one by its key, such as `trn-jax convert "
        f"--key={escaped(networks[0].key)}`:{''.join(f'{chr(10)}  {n}' for n in networks)}"
    )


def prefixed(sizes, prefixes):
    """Parts of one mapping as `Network`s, by the prefixes of their names (without the dot)."""
    found = []
    for prefix in prefixes:
        part = {n: size for n, size in sizes.items() if unwrapped(n).startswith(f"{prefix}.")}
        found.append(Network((prefix,), False, part))
    return found


def _by_key(networks, key):
    exact = [network for network in networks if network.key == key]
    last = [network for network in networks if network.path and network.path[-1] == key]
    if found := exact or last:
        if len(found) > 1:
            raise several(found)
        return found[0]
    for network in networks:
        rest = key.removeprefix(f"{network.key}.")
        part = prefixed(network.sizes, [rest])[0].sizes or {
            name: size for name, size in network.sizes.items() if name.startswith(f"{rest}.")
        }
        if part:
            return Network(network.path, network.named, part)
    known = [network for network in networks if network.path] or [
        part
        for part in prefixed(networks[0].sizes, sorted(_first_parts(networks[0].sizes)))
        if part.size >= _MIN_SHARE * networks[0].size
    ]
    listed = "".join(f"\n  {network}" for network in known)
    hint = did_you_mean(key, [network.key for network in known])
    raise UserError(f"nothing has the key {key!r}{hint} The file has:{listed}")


def _first_parts(names):
    return {plain.partition(".")[0] for plain in map(unwrapped, names) if "." in plain}


def selected(state_dict, *, rename=(), ignore=()):
    """Remove tensors from a state dict and rename others, in this order.

    Args:
        state_dict: a `StateDict`.
        rename: `(regular expression, replacement)` pairs, applied to every name in turn as by
            `re.sub`. Plain text matches itself, except for dots, which match any character.
        ignore: shell patterns of full names, such as `head.*`.

    Returns:
        The `StateDict`, with a line in `left_unread` for each pattern, and `{new name: name in the
        file}`.

    Raises:
        UserError: an invalid expression, one that matches no name, or two tensors with one name.
    """
    ignored = {pattern: fnmatch.filter(state_dict, pattern) for pattern in ignore}
    for pattern, names in ignored.items():
        if not names:
            raise UserError(f"--ignore={pattern} matches none of the names{_examples(state_dict)}")
    out = {name for names in ignored.values() for name in names}
    origins = {name: name for name in state_dict if name not in out}
    for old, new in rename:
        try:
            changed = {re.sub(old, new, name): origin for name, origin in origins.items()}
        except (re.error, IndexError) as error:
            raise UserError(f"--rename={old}={new}: not a regular expression ({error})") from None
        if len(changed) < len(origins):
            raise UserError(f"--rename={old}={new} gives two tensors the same name")
        if changed == origins:
            raise UserError(f"--rename={old}={new} changes none of the names{_examples(origins)}")
        origins = changed
    lines = [f"ignored: {len(names)} tensors {escaped(p)}" for p, names in ignored.items()]
    tensors = {name: state_dict[origin] for name, origin in origins.items()}
    left_unread = state_dict.left_unread + lines
    return StateDict(tensors, state_dict.path, left_unread), origins


def _examples(names):
    shown = ", ".join(escaped(name) for name in list(names)[:3])
    return f", such as {shown}" if shown else "; there are none left"
