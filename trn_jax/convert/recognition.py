"""Detects the code base and the prefix of the names in a state dict."""

import functools
import re
from collections import Counter
from dataclasses import dataclass

from trn_jax.convert.name_tables import EXAMPLES, NAME_TABLES
from trn_jax.convert.selection import averaged, prefixed, several, unwrapped
from trn_jax.errors import UserError, escaped

_MAX_PREFIX = 6  # components
_MIN_SHARE = 0.1  # of the names that begin with a prefix
_MAX_SAMPLE = 5000  # names that every source is tried on
_KNOWN_SHARE = 0.5  # of the names that a source knows, or it is none of ours
# The first layers of most networks of torchvision, and so no evidence for one of them.
_SHARED = re.compile(r"features\.0\.[01]\.\w+")
# Counters of moving averages, and tensors that follow from the architecture.
_DERIVED = re.compile(
    r"(.*\.)?(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask)|"
    r"n_averaged|steps|num_updates"
)
# mmcv's EMAHook keeps the weights of the last step in such buffers, beside the averaged ones.
_BUFFER = "ema_"
# Of networks that are trained together, the one whose weights are the result.
_RESULT = re.compile(r"(.*\.)?(encoder_q|online_encoder|online_network)")


@dataclass(frozen=True)
class Recognition:
    """The source of the names of a state dict.

    Attributes:
        source: one of `NAME_TABLES`.
        names: `{name in the file: name as in the source's table}`, without derived tensors and
            those of other networks.
    """

    source: str
    names: dict


def recognise(sizes, source="auto"):
    """Find the source that names its tensors so, and the prefix of the names.

    PyTorch's wrappers are removed everywhere, see `selection.unwrapped`; then the prefix, such as
    `model.` or `encoder_q.`, behind which the source knows most names. Names without the prefix may
    belong to the network, too.

    Args:
        sizes: `{name: number of elements}` of all tensors of a file.
        source: one of `NAME_TABLES`, or "auto".

    Raises:
        UserError: an unknown source, names of no known source, or several networks alike.
    """
    if source != "auto" and source not in NAME_TABLES:
        known = ", ".join(NAME_TABLES)
        raise UserError(f"unknown source {source!r} of weights; known: auto, {known}")
    plain = {name: unwrapped(name) for name in sizes}
    buffers = {_BUFFER + name.replace(".", "_") for name in plain.values()}
    own = {n: p for n, p in plain.items() if p not in buffers and not derived(p)}
    prefixes = _prefixes(own.values())
    best, prefix = _best(list(own.values()), source, prefixes)
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
    # Names without the prefix, such as the classifier beside an `encoder`.
    taken = set(placed.values())
    for name, other in own.items():
        if name not in placed and other not in taken and layer(other, best) is not None:
            placed[name] = other
    placed = {name: placed[name] for name in own if name in placed}
    return Recognition(best, placed)


def _best(names, source, prefixes):
    """The source, and the prefix, that most of the names are known with."""
    some = names[:: 1 + len(names) // _MAX_SAMPLE]
    counts = {
        (candidate, prefix): len(_known(some, candidate, prefix))
        for candidate in (NAME_TABLES if source == "auto" else [source])
        for prefix in prefixes
    }
    return max(counts, key=counts.__getitem__)


def _alike(names, source, prefix, prefixes):
    """The other prefixes with the same names behind them: other networks."""
    names = set(names)

    def under(prefix):
        inside = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        return {name for name in inside if layer(name, source) is not None}

    found = under(prefix)
    parts = {other: under(other) for other in prefixes if other != prefix}
    return [other for other, part in parts.items() if len(part & found) > 0.9 * len(found) > 0]


def _within(name, other, chosen):
    """Whether a name belongs to another network, which may be inside the chosen one's prefix."""
    return name.startswith(other) and not chosen.startswith(other)


def derived(name):
    """Whether a tensor is a counter, or follows from the architecture."""
    return _DERIVED.fullmatch(unwrapped(name)) is not None


def layer(name, source):
    """The layer of a tensor in our model; "" for one without use, `None` for an unknown one."""
    # A parameter of the whole network, such as a token, has no layer in its name.
    return _layer(name.rpartition(".")[0] or name, source)


@functools.lru_cache(1 << 16)
def _layer(name, source):
    if not _any_pattern(source).fullmatch(name):
        return None
    for pattern, replacement in NAME_TABLES[source]:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


@functools.cache
def _any_pattern(source):
    return re.compile("|".join(f"(?:{pattern})" for pattern, _ in NAME_TABLES[source]))


def _prefixes(names):
    """All prefixes, with their dots, that enough names have; the shortest first."""
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
    """The prefix of the network to load, of several networks with the same names."""
    plain = [prefix for prefix in prefixes if not averaged(prefix[:-1])] or prefixes
    results = [prefix for prefix in plain if _RESULT.fullmatch(prefix[:-1])] or plain
    if len(results) > 1 and not all(r.startswith(results[0]) for r in results):
        raise several(_parts(results, own, sizes))
    return results[0]


def _parts(prefixes, own, sizes):
    return prefixed({name: sizes[name] for name in own}, [prefix[:-1] for prefix in prefixes])


def _check_known(source, known, count, names):
    evidence = [name for name in known if not _SHARED.fullmatch(name)]
    if evidence and len(known) >= _KNOWN_SHARE * count:
        return
    shown = "".join(f"\n  {escaped(name)}" for name in names[:5])
    more = "\n  ..." if len(names) > 5 else ""
    width = max(map(len, EXAMPLES))
    schemes = "".join(f"\n  {source:{width}}  {EXAMPLES[source]}" for source in NAME_TABLES)
    nearest = f"\nThe nearest, {source}, has {len(known)} of them." if known else ""
    raise UserError(
        f"unknown naming scheme of {len(names):,} tensors:{shown}{more}{nearest}\n"
        f"Known schemes, with an example each (which may have a prefix):{schemes}\n"
        "If the network is one of these, rename its tensors: --rename='^encoder\\.=' removes a "
        "prefix, --rename=gamma=weight replaces a part"
    )
