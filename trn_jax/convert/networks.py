"""Files with several networks, such as EMA weights: lists them and selects one."""

import re
from dataclasses import dataclass

from trn_jax.errors import UserError, did_you_mean, escaped

# Moving averages of the weights of the network beside them.
_AVERAGED = re.compile(r"(?i)(.*[._])?(ema|swa|averaged?|avg)([._].*|\d*)")
# Modules that PyTorch puts around others: nn.DataParallel, torch.compile, FSDP, activation
# checkpointing, Lightning Fabric. They may wrap any part of a network.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|"
    r"_forward_module)\."
)
_MUCH = 0.1  # of the largest network: what has fewer numbers is no network of its own


class StateDict(dict):
    """Tensors by name, `{name: array}`, of one network in a file.

    Attributes:
        path: the keys that lead to it in the file, a tuple; empty if the names are at the top.
        left_unread: a line for each other network in the file, and on how to take it.
    """

    def __init__(self, tensors, path=(), left_unread=()):
        super().__init__(tensors)
        self.path = tuple(path)
        self.left_unread = list(left_unread)

    def of(self, tensors):
        """Other tensors from the same place."""
        return StateDict(tensors, self.path, self.left_unread)


@dataclass(frozen=True)
class Network:
    """A mapping of a file that holds tensors.

    Attributes:
        path: the keys that lead to it.
        named: whether all of them are usual names for the weights of a checkpoint.
        sizes: `{name: number of elements}`.
    """

    path: tuple
    named: bool
    sizes: dict

    @property
    def key(self):
        """What `--key` calls it."""
        return ".".join(self.path)

    @property
    def size(self):
        """Number of elements."""
        return sum(self.sizes.values())

    def __str__(self):
        return f"{escaped(self.key) or 'top level'} ({_amount(self.sizes)})"


def averaged(key):
    """Whether a key, or the beginning of names, is one for moving averages of weights."""
    return _AVERAGED.fullmatch(key) is not None


def unwrapped(name):
    """The name of a tensor without the modules that PyTorch wraps others in."""
    return _WRAPPERS.sub("", name)


def choose(networks, key=None):
    """Choose the network to take from a file.

    Without a key, this is the first one with a usual name. Averaged weights (EMA, SWA) are taken
    only if there are no others, as the programs that published numbers came from do.

    Args:
        networks: all in the file, a non-empty list, the likeliest first.
        key: the keys of one, with dots between them; or the beginning of the names of tensors.

    Returns:
        The `Network`, with the names to take in its `sizes`, and a list of lines on the others.

    Raises:
        UserError: there is none of this key, or there are several and no key.
    """
    if key is not None:
        return _by_key(networks, key), []
    largest = max(network.size for network in networks)
    large = [network for network in networks if network.size >= _MUCH * largest]
    plain = [network for network in large if not averaged(network.key)] or large
    chosen = plain[0]
    if len(plain) > 1 and not chosen.named:
        raise several(plain)
    left = [f"left unread: {network}" for network in networks if network is not chosen]
    left += [
        f"{escaped(n.key)} has averaged weights (EMA), which often score better: "
        f"`trn-jax convert --key={escaped(n.key)}` takes them"
        for n in large
        if n is not chosen and averaged(n.key)
    ]
    return chosen, left


def several(networks):
    """The error that a file holds several networks, none of which is the obvious one."""
    return UserError(
        f"it holds {len(networks)} networks; choose one by its key, such as `trn-jax convert "
        f"--key={escaped(networks[0].key)}`:{''.join(f'{chr(10)}  {n}' for n in networks)}"
    )


def prefixed(sizes, prefixes):
    """Parts of one mapping as `Network`s, by the beginnings of their names (without the dot)."""
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
        if part.size >= _MUCH * networks[0].size
    ]
    listed = "".join(f"\n  {network}" for network in known)
    hint = did_you_mean(key, [network.key for network in known])
    raise UserError(f"it has nothing with the key {key!r}{hint} It holds:{listed}")


def _first_parts(names):
    return {plain.partition(".")[0] for plain in map(unwrapped, names) if "." in plain}


def _amount(sizes):
    count = len(sizes)
    return f"{count:,} tensor{'s' * (count != 1)}, {sum(sizes.values()):,} numbers"
