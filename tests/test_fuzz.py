"""Mutated lists, pictures, videos, records, scores, weights, logs and configurations.

Readers may read them or refuse them with an error for people, in bounded memory, and nothing else.
"""

import collections
import importlib.util
import subprocess
import sys

import bounded_reading
import fuzzing
import pytest
from mutations import mutated

from trn_jax.errors import UserError

NEEDED = {"video": "av", "records": "tensorflow_datasets"}
TARGETS = [
    name
    for name in fuzzing.TARGETS
    if not any(
        word in name and importlib.util.find_spec(package) is None
        for word, package in NEEDED.items()
    )
]
# Those that name the file in every message themselves, and do not leave that to their callers.
NAMING = {
    "list",
    "list of several labels",
    "class names",
    "jpeg",
    "png",
    "video",
}
NAMING |= {name for name in fuzzing.TARGETS if name.startswith(("scores", "weights"))}

# What is wrong with a log is left out, and 500 mutations need not make class names wrong.
UNREFUSED = {"log", "log that is resumed", "class names"}


def run(tmp_path, first, count):
    found = bounded_reading.run("fuzzing.py", tmp_path, first, count, *TARGETS)
    assert len(found) == count
    faults = [
        f"python tests/fuzzing.py /tmp/fuzz {o['seed']} 1 {' '.join(map(repr, TARGETS))}\n"
        f"{o['target']}, seed {o['seed']}: {o['text']}"
        for o in found
        if o["kind"] == "fault"
    ]
    assert not faults, f"{len(faults)} faults:\n\n" + "\n".join(faults)
    for each in found:
        if each["kind"] == "refused" and each["target"] in NAMING:
            path = fuzzing.FILES[each["target"]]
            assert path in each["text"], each
    return collections.Counter((o["target"], o["kind"]) for o in found)


def test_five_hundred_mutations(tmp_path):
    counts = run(tmp_path, 0, 500)
    for target in TARGETS:  # the mutations reach something
        assert counts[target, "refused"] or target in UNREFUSED, target


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 9000, 2000))
def test_two_thousand_mutations(tmp_path, first):
    counts = run(tmp_path, first, 2000)
    for target in TARGETS:
        assert counts[target, "read"] or target == "png", target
        assert counts[target, "refused"] or target in UNREFUSED - {"class names"}, target


# The harness


def test_a_seed_gives_the_same_mutation_always():
    for name, content in (("s.json", b'{"a": [1, 2, {"b": null}]}'), ("x.txt", b"a 1\nb 2\n")):
        found = [mutated(name, content, seed) for seed in range(50)]
        assert found == [mutated(name, content, seed) for seed in range(50)]
        assert len(set(found)) > 25


def fails(error):
    def read(path):
        raise error

    return read


def test_what_is_no_error_for_people_is_a_fault():
    outcome = bounded_reading.outcome
    assert outcome(fails(UserError("x")), "f")["kind"] == "refused"
    for error in (KeyError("x"), RecursionError(), MemoryError(), AssertionError(), OSError()):
        assert outcome(fails(error), "f")["kind"] == "fault"
    wrapped = UserError("x")
    wrapped.__cause__ = MemoryError()
    assert outcome(fails(wrapped), "f")["kind"] == "fault"
    assert outcome(lambda path: None, "f")["kind"] == "read"


def test_the_memory_is_bounded():
    code = (
        "import bounded_reading as b\n"
        "if b.bound_memory(100):\n"
        "    assert b.outcome(lambda path: bytearray(50 << 20), '')['kind'] == 'read'\n"
        "    assert b.outcome(lambda path: bytearray(200 << 20), '')['kind'] == 'fault'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=bounded_reading.TESTS, check=True)
