"""Fusion of several models' scores, and its command."""

import dataclasses

import numpy as np
import pytest
from example_scores import example

from trn_jax import cli
from trn_jax.errors import UserError
from trn_jax.evaluation import metrics, score_files
from trn_jax.evaluation.fusion import fuse


def shuffled(found, seed=5):
    order = np.random.default_rng(seed).permutation(len(found.scores))
    return dataclasses.replace(
        found,
        scores=found.scores[order],
        labels=found.labels[order],
        videos=[found.videos[row] for row in order],
    )


@pytest.mark.parametrize("several", [False, True])
def test_a_fusion_is_the_weighted_mean_by_the_name_of_the_video(several):
    a, b = example(seed=1, several=several), example(seed=2, several=several)
    fused = fuse([("a", a), ("b", shuffled(b))], [3, 1])
    np.testing.assert_allclose(fused.scores, 0.75 * a.scores + 0.25 * b.scores, rtol=1e-6)
    assert fused.videos == a.videos and fused.scores.dtype == np.float32
    assert fused.about == {"fusion": "3 x a + 1 x b"}
    # A weight of 0 leaves the other one as it is.
    np.testing.assert_array_equal(fuse([("a", a), ("b", b)], [0, 2]).scores, b.scores)
    equal = fuse([("a", a), ("b", b), ("a again", a)])
    np.testing.assert_allclose(equal.scores, (2 * a.scores + b.scores) / 3, rtol=1e-6)


def test_names_that_occur_twice_are_no_harm_in_the_same_order():
    a = dataclasses.replace(example(), videos=["same"] * 12)
    assert fuse([("a", a), ("b", a)]).metrics() == a.metrics()
    mixed = dataclasses.replace(a, videos=["same"] * 11 + ["other"])
    other = dataclasses.replace(a, videos=["other"] + ["same"] * 11)
    with pytest.raises(UserError, match="more than once"):
        fuse([("a", mixed), ("b", other)])


def changed(**changes):
    found = example(seed=2)
    return dataclasses.replace(found, **{k: change(found) for k, change in changes.items()})


BAD_PARTNERS = {
    "other videos": (
        changed(videos=lambda f: [*f.videos[:-1], "else"]),
        r"\(12 here, 12 there\):\n  'folder 11/väter' is only there\n  'else' is only here",
    ),
    "fewer videos": (example(seed=2, num_videos=9), r"\(9 here, 12 there\).*(\n.*){3}\n  and|only"),
    "fewer videos without names": (
        dataclasses.replace(example(seed=2, num_videos=9), videos=[]),
        "9 videos.* 12.* names",
    ),
    "other class names": (
        changed(class_names=lambda f: f.class_names[::-1]),
        " 6 classes .*:\n  class 0 is 'Class «0»' there and 'Class «5»' here",
    ),
    "fewer classes": (example(seed=2, num_classes=5), "5 classes.* 6"),
    "other labels": (
        changed(labels=lambda f: (f.labels + (np.arange(12) == 3)) % 6),
        "labels.* 1 of 12 videos.* folder 3/väter",
    ),
    "logits": (changed(scores=lambda f: 9 * f.scores - 3), "probabilities"),
    "several labels": (example(several=True), "one label per video.* several"),
}


@pytest.mark.parametrize("case", BAD_PARTNERS)
def test_scores_of_different_things_are_not_fused(case):
    other, message = BAD_PARTNERS[case]
    with pytest.raises(UserError, match=message) as error:
        fuse([("a.npz", example()), ("b.npz", other)])
    assert "b.npz with a.npz: " in str(error.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "1 weights for 2 files"),
        ([1, 1, 1], "3 weights for 2 files"),
        ([1, -1], "1, -1 "),
        ([0, 0], "not all 0"),
        ([1, np.nan], "finite"),
    ],
)
def test_weights_have_to_fit(weights, message):
    with pytest.raises(UserError, match=message):
        fuse([("a", example()), ("b", example())], weights)


def test_the_command_prints_single_files_and_their_fusion(tmp_path, capsys):
    a, b = example(seed=1, num_videos=300), example(seed=2, num_videos=300)
    paths = [str(tmp_path / "a.npz"), str(tmp_path / "b.json")]
    for path, found in zip(paths, (a, shuffled(b)), strict=True):
        score_files.write(path, found)
    out = str(tmp_path / "fused.pkl")
    assert cli.main(["ensemble", *paths, "--weights", "2", "1", f"--dump={out}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["scores", "videos", "top-1", "top-5"]
    expected = [
        f"{100 * metrics.top_k_accuracy(s, a.labels, 1):.2f}"
        for s in (a.scores, b.scores, 2 * a.scores + b.scores)
    ]
    assert [line.split()[2] for line in lines[2:5]] == expected
    assert score_files.read(out).metrics() == fuse([("a", a), ("b", b)], [2, 1]).metrics()

    assert cli.main(["ensemble", paths[0]]) == 2
    assert "at least two files" in capsys.readouterr().err
    assert cli.main(["ensemble", *paths, "--weights", "1", f"--dump={tmp_path}/no.npz"]) == 2
    assert "1 weights for 2 files" in capsys.readouterr().err
    assert not (tmp_path / "no.npz").exists()
