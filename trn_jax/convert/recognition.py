"""Detects the code base and the prefix of the names in a state dict."""

import functools
import re
from collections import Counter
from dataclasses import dataclass

from trn_jax.convert.networks import averaged, prefixed, several, unwrapped
from trn_jax.convert.sources import EXAMPLES, SOURCES
from trn_jax.errors import UserError, escaped

_MAX_PREFIX = 6  # components
_MIN_SHARE = 0.1  # of the names that begin with a prefix
_MAX_SAMPLE = 5000  # names that every source is tried on
_KNOWN_SHARE = 0.5  # of the names that a source knows, or it is none of ours
# Counters of moving averages, and what follows from the architecture.
_DERIVED = re.compile(
    r"(.*\.)?(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask)|"
    r"n_averaged|steps|num_updates"
)
# mmcv's EMAHook keeps, beside the averaged weights, those of the last step in such buffers.
_BUFFER = "ema_"
# Of networks that learn together, the one whose weights are the result.
_RESULT = re.compile(r"(.*\.)?(encoder_q|online_encoder|online_network)")


@dataclass(frozen=True)
class Recognition:
    """What was found out about the names of a state dict.

    Attributes:
        source: one of `SOURCES`.
        prefix: what was cut off, with its dot, or "".
        names: `{name in the file: name as in the source's table}`, without derived tensors and what
            does not belong to this network.
        left_unread: a line for each other network.
    """

    source: str
    prefix: str
    names: dict
    left_unread: list


def recognise(sizes, source="auto"):
    """Find out which source names its tensors so, and behind which prefix.

    Modules that PyTorch puts around others are cut off wherever they are, see `networks.unwrapped`;
    then the prefix, such as `model.` or `encoder_q.`, behind which a source knows most names.
    Others need not begin with it.

    Args:
        sizes: `{name: number of elements}` of all tensors of a file.
        source: one of `SOURCES`, or "auto".

    Raises:
        UserError: an unknown source, names of no known source, or several networks alike.
    """
    if source != "auto" and source not in SOURCES:
        raise UserError(f"unknown source {source!r} of weights; known: auto, {', '.join(SOURCES)}")
    plain = {name: unwrapped(name) for name in sizes}
    buffers = {_BUFFER + name.replace(".", "_") for name in plain.values()}
    own = {n: p for n, p in plain.items() if p not in buffers and not derived(p)}
    prefixes = _prefixes(own.values())
    some = list(own.values())[:: 1 + len(own) // _MAX_SAMPLE]
    counts = {
        (candidate, prefix): len(_known(some, candidate, prefix))
        for candidate in (SOURCES if source == "auto" else [source])
        for prefix in prefixes
    }
    best, prefix = max(counts, key=counts.__getitem__)
    if source == "auto":
        inside = {p for p in own.values() if p.startswith(prefix)}
        _check_known(best, _known(own.values(), best, prefix), len(inside), list(own))
    alike = _alike(own.values(), best, prefix, prefixes)
    chosen = _the_one([prefix, *alike], own, sizes) if prefix else prefix
    others = [other for other in (prefix, *alike) if other != chosen]
    placed = {
        name: other.removeprefix(chosen)
        for name, other in own.items()
        if other.startswith(chosen) and not any(_within(other, o, chosen) for o in others)
    }
    # What has no prefix may belong to it, too, as the classifier beside an `encoder`.
    taken = set(placed.values())
    for name, other in own.items():
        if name not in placed and other not in taken and layer(other, best) is not None:
            placed[name] = other
    placed = {name: placed[name] for name in own if name in placed}
    left_unread = [f"left unread: {n}" for n in _parts(others, own, sizes)]
    return Recognition(best, chosen, placed, left_unread)


def _alike(names, source, prefix, prefixes):
    """The other prefixes behind which there are the same names: of another network."""
    names = set(names)

    def under(prefix):
        inside = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        return {name for name in inside if layer(name, source) is not None}

    found = under(prefix)
    parts = {other: under(other) for other in prefixes if other != prefix}
    return [other for other, part in parts.items() if len(part & found) > 0.9 * len(found) > 0]


def _within(name, other, chosen):
    """Whether a name is one of another network, which may be inside of the chosen one's prefix."""
    return name.startswith(other) and not chosen.startswith(other)


def derived(name):
    """Whether a tensor is a counter, or follows from the architecture."""
    return _DERIVED.fullmatch(unwrapped(name)) is not None


def layer(name, source):
    """The layer in our model of a tensor, "" if it is of no use, `None` if it is not known."""
    return _layer(name.rpartition(".")[0], source)


@functools.lru_cache(1 << 16)
def _layer(name, source):
    if not _any_pattern(source).fullmatch(name):
        return None
    for pattern, replacement in SOURCES[source]:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


@functools.cache
def _any_pattern(source):
    return re.compile("|".join(f"(?:{pattern})" for pattern, _ in SOURCES[source]))


def _prefixes(names):
    """All beginnings of names, with their dots, that enough names have; the shortest first."""
    counts: Counter[str] = Counter()
    names = list(names)
    for name in names:
        components = name.split(".")
        for length in range(1, min(len(components), _MAX_PREFIX + 1)):
            counts[".".join(components[:length]) + "."] += 1
    common = [prefix for prefix, count in counts.items() if count >= _MIN_SHARE * len(names)]
    return ["", *sorted(common, key=lambda prefix: prefix.count("."))]


def _known(names, source, prefix):
    """The names, without `prefix` where they have it, that `source` knows."""
    plain = {name.removeprefix(prefix) for name in names}
    return {name for name in plain if layer(name, source) is not None}


def _the_one(prefixes, own, sizes):
    """The prefix of the network to take, of several networks with the same names."""
    plain = [prefix for prefix in prefixes if not averaged(prefix[:-1])] or prefixes
    results = [prefix for prefix in plain if _RESULT.fullmatch(prefix[:-1])] or plain
    if len(results) > 1 and not all(r.startswith(results[0]) for r in results):
        raise several(_parts(results, own, sizes))
    return results[0]


def _parts(prefixes, own, sizes):
    return prefixed({name: sizes[name] for name in own}, [prefix[:-1] for prefix in prefixes])


def _check_known(source, known, count, names):
    if count and len(known) >= _KNOWN_SHARE * count:
        return
    shown = "".join(f"\n  {escaped(name)}" for name in names[:5])
    width = max(map(len, EXAMPLES))
    listed = "".join(f"\n  {source:{width}}  {EXAMPLES[source]}" for source in SOURCES)
    nearest = f" The nearest, {source}, has {len(known)} of them." if known else ""
    raise UserError(
        f"unknown naming scheme: no known code base names its {len(names):,} tensors like:{shown}"
        f"\n{'  ...' if len(names) > 5 else ''}{nearest} Known schemes, with an example each (a "
        f"prefix before it makes no difference):{listed}\nIf the network is one of these, rename "
        "its tensors: --rename='^encoder\\.=' cuts a beginning off, --rename=gamma=weight replaces "
        "a part"
    )
