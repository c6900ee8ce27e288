"""Labels of mirrored clips: classes such as "left to right" become their mirror image."""

import re

from trn_jax.errors import UserError, did_you_mean

_MIRRORED_WORDS = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}


def mirrored_labels(class_names):
    """Pairs of classes that are mirror images by their names.

    Exchanging "left" with "right", or "clockwise" with "counterclockwise" (also
    "counter-clockwise", "anticlockwise"), turns the name of one into that of the other: "Pushing
    something from left to right" and "Pushing something from right to left". A direction without
    such a counterpart ("Plugging something in but pulling it right out") is none.

    Returns:
        `{label: mirrored label}` for the classes that change.
    """
    names = [_plain_name(name) for name in class_names]
    labels = {name: label for label, name in enumerate(names)}

    def mirror(name):
        return re.sub(r"[a-z]+", lambda word: _MIRRORED_WORDS.get(word[0], word[0]), name)

    found = {label: labels.get(mirror(name), label) for label, name in enumerate(names)}
    return {label: other for label, other in found.items() if label != other}


def _plain_name(name):
    return re.sub(r"\b(counter|anti)[- ]?clockwise\b", "counterclockwise", name.casefold())


def paired_labels(pairs, class_names):
    """Labels that pairs of class names exchange.

    Args:
        pairs: pairs of names, each a class and its mirror image.
        class_names: all names, in the order of their labels.

    Returns:
        `{label: mirrored label}`, in both directions.

    Raises:
        UserError: something is not a pair, or a name is unknown or occurs twice; all problems are
            reported at once.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    found: dict[int, int] = {}
    problems = []
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            problems.append(f"{pair!r} is not a pair of two class names")
            continue
        for name in pair:
            if name not in labels:
                hint = did_you_mean(name, class_names)
                problems.append(f"{name!r} is not one of the {len(class_names)} classes{hint}")
            elif pair[0] == pair[1] or labels[name] in found:
                problems.append(f"{name!r} occurs twice")
        if all(name in labels for name in pair):
            first, second = (labels[name] for name in pair)
            found |= {first: second, second: first}
    if problems:
        raise UserError("wrong flip_pairs:\n  " + "\n  ".join(dict.fromkeys(problems)))
    return found
