"""The order of examples: the same from any number of threads and processes and from any start."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from grey_videos import (
    EVAL,
    NUM_VIDEOS,
    VIEW,
    assert_same_batches,
    batch_reader,
    clips_of,
    evaluate,
    train,
)


def join_parts(*processes):
    """The global batches that the parts of several processes make up."""
    return [
        {
            key: sum((part[key] for part in parts), ())
            if key == "problems"
            else np.concatenate([part[key] for part in parts])
            for key in parts[0]
        }
        for parts in zip(*processes, strict=True)
    ]


@pytest.mark.smoke
@pytest.mark.parametrize("num_threads", [2, 5])
def test_batches_do_not_depend_on_the_number_of_threads(grey, reference, num_threads):
    assert_same_batches(train(batch_reader(grey, num_threads=num_threads), 10), reference)


@pytest.mark.parametrize("num_processes", [2, 4])  # with 4, every process has batches of one clip
def test_batches_do_not_depend_on_the_number_of_processes(grey, reference, num_processes):
    parts = [
        train(batch_reader(grey), 10, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    assert parts[0][0]["label"].shape == (4 // num_processes,)
    assert_same_batches(join_parts(*parts), reference)


@pytest.mark.parametrize("first_batch", [1, 3, 7])
def test_batches_do_not_depend_on_where_a_run_starts(grey, reference, first_batch):
    assert_same_batches(
        train(batch_reader(grey), 10 - first_batch, first_batch=first_batch),
        reference[first_batch:],
    )
    second = train(batch_reader(grey), 3, first_batch=first_batch, process=1, num_processes=2)
    for part, whole in zip(second, reference[first_batch:], strict=False):
        np.testing.assert_array_equal(part["clip"], whole["clip"][2:])


def test_both_seeds_matter(grey, reference):
    """The order is drawn from one, the augmentation from the other."""
    (other_order,) = train(batch_reader(grey), 1, seed=4)
    assert (other_order["example"] != reference[0]["example"]).any()
    (other_crops,) = train(batch_reader(grey, seed=8), 1)
    np.testing.assert_array_equal(other_crops["example"], reference[0]["example"])
    assert (other_crops["clip"] != reference[0]["clip"]).any()


def test_an_epoch_has_every_example_once_in_an_order_of_its_own(reference):
    stream = np.concatenate([batch["example"] for batch in reference])
    epochs = stream[: 3 * NUM_VIDEOS].reshape(3, NUM_VIDEOS)
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_VIDEOS))
        assert list(epoch) != sorted(epoch)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_example_is_augmented_anew_in_every_epoch(reference):
    clips = {video: [] for video in range(NUM_VIDEOS)}
    for batch in reference:
        for clip, example in zip(batch["clip"], batch["example"], strict=True):
            clips[int(example)].append(clip.tobytes())
    for versions in clips.values():
        assert len(versions) >= 3
        assert len(set(versions)) == len(versions)


@pytest.mark.thorough
def test_classes_are_drawn_equally_often_where_asked_for(grey):
    """The list has 3 videos of each of the classes 0, 1, 2 and 2 of class 3."""
    reader = batch_reader(grey, VIEW | dict(flip_rate=0))
    batches = train(reader, 30, batch=8, balanced=True)
    labels = np.concatenate([batch["label"] for batch in batches])
    assert np.bincount(labels).tolist() == [60] * 4
    for batch in batches:
        assert np.bincount(batch["label"]).tolist() == [2] * 4
    examples = np.concatenate([batch["example"] for batch in batches])
    counts = np.bincount(examples, minlength=NUM_VIDEOS)
    assert counts[[3, 7]].tolist() == [30, 30] and set(np.delete(counts, [3, 7])) == {20}
    # A video that comes again is cut anew, and the stream can be entered anywhere.
    clips = [
        batch["clip"][row] for batch in batches for row in np.flatnonzero(batch["example"] == 3)
    ]
    assert len({clip.tobytes() for clip in clips}) > 20
    assert_same_batches(train(reader, 5, batch=8, balanced=True, first_batch=7), batches[7:12])
    parts = [train(reader, 5, batch=8, balanced=True, process=p, num_processes=2) for p in range(2)]
    for whole, *halves in zip(batches, *parts, strict=False):
        np.testing.assert_array_equal(
            np.concatenate([half["example"] for half in halves]), whole["example"]
        )


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("num_processes", "num_threads"), [(1, 1), (1, 3), (2, 1), (3, 2), (16, 1)]
)
def test_evaluation_covers_the_list_once_whatever_the_processes(grey, num_processes, num_threads):
    options = dict(num_processes=num_processes, num_threads=num_threads)
    shares = [evaluate(grey, process=each, **options) for each in range(num_processes)]
    for process, videos in enumerate(shares):
        expected = list(range(process, NUM_VIDEOS, num_processes))
        assert [video.example for video in videos] == expected
    found = sorted(itertools.chain(*shares), key=lambda video: video.example)
    # The batches of training show the same.
    reader = batch_reader(grey, EVAL)
    for video, record in zip(found, reader.records, strict=True):
        np.testing.assert_array_equal(clips_of(video), reader([(0, record)])["clip"])


READ_A_BATCH = """
import pathlib, sys
from trn_jax.data import annotations, batches, pipeline, views
from trn_jax.data.frame_folders import FrameFolders
root = pathlib.Path({root!r})
records = annotations.read_list(root / "list.txt", frames_root=root, num_classes=4)
reader = batches.BatchReader(
    records, views.View(**{view!r}), FrameFolders(pattern="{{:05d}}.jpg", first_frame=1),
    seed=0, label_map={{}}, exact_resize=False, on_error="raise", num_threads=1,
)
stream = pipeline.train_batches(reader, batch=2, seed=0)
assert next(stream)["clip"].shape == (2, 3, 16, 16, 3)
stream.close()
"""


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_reading_needs_neither_jax_nor_flax(grey):
    blocked = "import sys\nfor name in ('jax', 'jaxlib', 'flax'): sys.modules[name] = None\n"
    run_python(blocked + READ_A_BATCH.format(root=str(grey), view=VIEW))


def test_reading_opens_no_accelerator(grey):
    """Grain imports jax if installed, which is harmless without a backend."""
    asked = (
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized(), 'flax' in sys.modules)"
    )
    assert run_python(READ_A_BATCH.format(root=str(grey), view=VIEW) + asked) == ["False", "False"]


@pytest.mark.parametrize("name", ["annotations", "datasets", "reader", "views"])
def test_everything_below_the_pipeline_imports_neither_jax_nor_grain(name):
    code = f"import sys, trn_jax.data.{name}\n"
    asked = "print(*{'jax', 'flax', 'grain'}.intersection(sys.modules))"
    assert run_python(code + asked) == []
