"""Renames and ignores tensors on request (`--rename`, `--ignore`)."""

import fnmatch
import re

from trn_jax.errors import UserError, escaped


def selected(state_dict, *, rename=(), ignore=()):
    """Leave tensors out of a state dict and rename others, in this order.

    Args:
        state_dict: a `networks.StateDict`.
        rename: `(regular expression, replacement)` pairs, applied to every name one after another
            as `re.sub` does. Plain text is an expression for itself, but for its dots, which match
            any character.
        ignore: shell patterns of whole names, such as `head.*`.

    Returns:
        The `StateDict`, which also says what was left out, and `{new name: name in the file}`.

    Raises:
        UserError: an expression is none, or one of all these matches no name, or two tensors get
            the same name.
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
    found = state_dict.of({name: state_dict[origin] for name, origin in origins.items()})
    found.left_unread += [
        f"ignored: {len(names)} tensors {escaped(pattern)}" for pattern, names in ignored.items()
    ]
    return found, origins


def _examples(names):
    shown = ", ".join(escaped(name) for name in list(names)[:3])
    return f", which are like {shown}" if shown else "; there are none left"
