"""Score files, read back to the last bit, and dumps of mmaction2."""

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from example_scores import example
from torch_files import Call, Storage, legacy_file, pickled, tensor

from trn_jax.errors import UserError
from trn_jax.evaluation import score_files
from trn_jax.evaluation.fusion import fuse
from trn_jax.evaluation.scores import Scores

FORMATS = ("npz", "json", "pkl")


def assert_same(a, b):
    for field in dataclasses.fields(Scores):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, field.name


# Files


@pytest.mark.smoke
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("extension", FORMATS)
def test_what_is_written_is_read_back(tmp_path, extension, several):
    found = example(several=several)
    path = str(tmp_path / f"new/folder/s.{extension}")
    score_files.write(path, found)
    again = score_files.read(path)
    assert_same(found, again)
    assert again.metrics() == found.metrics()
    assert again.per_class() == found.per_class()
    assert [file.name for file in (tmp_path / "new/folder").iterdir()] == [f"s.{extension}"]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("extension", FORMATS)
def test_videos_that_could_not_be_read_stay_marked(tmp_path, extension, several):
    found = example(several=several)
    missing = np.zeros(12, bool)
    missing[[2, 7]] = True
    values = np.where(missing[:, None], 0, found.scores).astype(np.float32)
    found = dataclasses.replace(found, scores=values, missing=missing)
    assert found.metrics() != example(several=several).metrics()
    path = str(tmp_path / f"s.{extension}")
    score_files.write(path, found)
    again = score_files.read(path)
    assert_same(found, again)
    assert again.metrics() == found.metrics()
    assert again.per_class() == found.per_class()
    assert sum(row["videos"] for row in found.per_class()) == (24 if several else 12)
    if not several:
        assert found.confusion().sum() == 10


@pytest.mark.parametrize("rows", [[12], [-1], ["a"], [[1]], "all", [1.5], {"a": 1}])
def test_marks_of_missing_videos_that_cannot_be(tmp_path, rows):
    found = example()
    score_files.write(str(tmp_path / "s.json"), found)
    content = json.loads((tmp_path / "s.json").read_text()) | {"missing": rows}
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="missing"):
        score_files.read(str(tmp_path / "s.json"))


def test_a_video_that_one_model_could_read_is_not_missing_in_a_fusion():
    one, other = example(seed=1), example(seed=2)
    gone = np.arange(12) < 2
    one = dataclasses.replace(one, scores=np.where(gone[:, None], 0, one.scores), missing=gone)
    fused = fuse([("one", one), ("other", other)])
    assert fused.missing is None
    np.testing.assert_allclose(fused.scores[:2], other.scores[:2] / 2)
    other = dataclasses.replace(other, missing=np.arange(12) < 1)
    np.testing.assert_array_equal(fuse([("a", one), ("b", other)]).missing, np.arange(12) < 1)


def test_a_script_of_five_lines_reads_the_pickle(tmp_path):
    found = example()
    score_files.write(str(tmp_path / "s.pkl"), found)
    script = """
import pickle, numpy
rows = pickle.load(open("s.pkl", "rb"))
best = numpy.array([row["pred_score"].argmax() for row in rows])
assert all(row["pred_label"].item() == label for row, label in zip(rows, best))
print(numpy.mean(best == [row["gt_label"].item() for row in rows]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == found.metrics()["top1"]
    # Nothing in it needs more than NumPy to be loaded.
    content = (tmp_path / "s.pkl").read_bytes()
    assert b"trn_jax" not in content and b"jax" not in content
    row = pickle.loads(content)[3]
    assert row["pred_score"].dtype == np.float32 and row["pred_score"].shape == (6,)
    assert row["gt_label"].dtype == np.int64 and row["gt_label"].shape == (1,)
    assert row["video_id"] == "folder 3/väter"


def test_tensors_that_earlier_versions_wrote_are_read(tmp_path):
    class Tensor:
        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            return from_numpy, (self.array,)

    found = example()
    score_files.write(str(tmp_path / "s.pkl"), found)
    rows = pickle.loads((tmp_path / "s.pkl").read_bytes())
    names = ("pred_score", "pred_label", "gt_label")
    rows = [row | {name: Tensor(row[name]) for name in names} for row in rows]
    content = pickle.dumps(rows, protocol=3)
    function = f"c{__name__}\nfrom_numpy\n".encode()
    assert content.count(function) == 1
    (tmp_path / "t.pkl").write_bytes(content.replace(function, b"ctorch\nfrom_numpy\n"))
    assert_same(found, score_files.read(str(tmp_path / "t.pkl")))


def from_numpy(array):
    """Stands for `torch.from_numpy` until the pickle is written."""
    return array


def test_numpy_reads_the_npz_without_pickles(tmp_path):
    found = example()
    score_files.write(str(tmp_path / "s.npz"), found)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert archive["scores"].shape == (12, 6)
        assert archive["class_names"].tolist() == found.class_names
        assert archive["protocol"] == "accurate"
        assert archive["list_sha256"] == "0" * 64


def test_json_is_an_object_of_the_same_names(tmp_path):
    found = example(several=True)
    score_files.write(str(tmp_path / "s.json"), found)
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["videos"] == found.videos
    assert content["labels"][0] == np.flatnonzero(found.labels[0]).tolist()
    assert np.float32(content["scores"][1][2]) == found.scores[1, 2]


def test_of_several_protocols_each_has_its_file():
    assert score_files.dump_path("a/s.npz", "efficient", 1) == "a/s.npz"
    assert score_files.dump_path("a/s.pkl", "1x10", 2) == "a/s_1x10.pkl"
    assert score_files.dump_path("a/s.npz", "efficient", 2) == "a/s_efficient.npz"


def dumped_by_mmaction2(found, *, nested=False, protocol=2):
    """A dump with tensors, as the class `DumpResults` of mmengine writes it."""

    def cpu(values):
        values = np.ascontiguousarray(values)
        # A storage inside of a pickle is a file of its own, in the format of before 1.6.
        inside = legacy_file(Storage(values))
        storage = Call("torch.storage._load_from_bytes", inside)
        return tensor(storage, values.shape, (1,))

    rows = []
    for score, label in zip(found.scores, found.labels, strict=True):
        row = dict(img_shape=(224, 224), num_classes=len(score), pred_label=cpu([score.argmax()]))
        label = label if found.multi_label else np.array([label])
        if nested:
            row |= dict(pred_scores={"item": cpu(score)}, gt_labels={"item": cpu(label)})
        else:
            row |= dict(pred_score=cpu(score), gt_label=cpu(label))
        rows.append(row)
    return pickled(rows, protocol)[0]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_dumps_of_mmaction2_are_read(tmp_path, several, nested):
    found = example(several=several)
    (tmp_path / "theirs.pkl").write_bytes(dumped_by_mmaction2(found, nested=nested))
    theirs = score_files.read(str(tmp_path / "theirs.pkl"))
    np.testing.assert_array_equal(theirs.scores, found.scores)
    np.testing.assert_array_equal(theirs.labels, found.labels)
    assert theirs.videos == theirs.class_names == []
    assert theirs.per_class()[2]["name"] == "class 2"
    # It can be laid beside ours, in the order of the list.
    assert fuse([("ours", found), ("theirs", theirs)]).metrics() == found.metrics()


@pytest.mark.parametrize("extension", FORMATS)
def test_scores_without_names_can_be_written_too(tmp_path, extension):
    found = dataclasses.replace(example(), videos=[], class_names=[], reversed_class={}, about={})
    path = str(tmp_path / f"s.{extension}")
    score_files.write(path, found)
    assert_same(found, score_files.read(path))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_numpy_of_every_protocol_are_read(tmp_path, protocol):
    rows = [
        {"pred_score": row, "gt_label": np.array([label], kind)}
        for kind in ("<i8", "<i8")
        for row, label in zip(np.eye(3, dtype=">f8"), (0, 1, 1), strict=True)
    ]
    rows[1]["gt_label"] = np.int64(1)
    rows[2]["gt_label"] = 1
    (tmp_path / "s.pickle").write_bytes(pickle.dumps(rows, protocol))
    found = score_files.read(str(tmp_path / "s.pickle"))
    assert found.metrics()["top1"] == pytest.approx(2 / 3)
    assert found.labels.tolist() == [0, 1, 1] * 2


def test_a_pickle_is_not_executed(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    rows = [{"pred_score": np.zeros(3), "gt_label": Attack()}]
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(rows))
    with pytest.raises(UserError, match=r"s\.pkl: "):
        score_files.read(str(tmp_path / "s.pkl"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", b"", r"s\.txt.*\.npz, \.json, \.pkl"),
        ("s.npz", b"PK", r"s\.npz: .*\.npz"),
        ("s.json", b"{", r"s\.json: .*JSON"),
        ("s.json", b"[1, 2]", "--dump="),
        ("s.json", b'{"scores": [[1]]}', "labels, videos, class_names, only scores"),
        (
            "s.json",
            b'{"scores": [[1, 2]], "labels": [0, 1], "videos": [], "class_names": []}',
            "2 labels.* 1 videos and 2 classes",
        ),
        (
            "s.json",
            b'{"scores": [[1, 2]], "labels": [2], "videos": [], "class_names": []}',
            r"labels .*2\.\.2.*0\.\.1",
        ),
        (
            "s.json",
            b'{"scores": [[1], [1, 2]], "labels": [0, 0], "videos": [], "class_names": []}',
            "rows of scores",
        ),
        ("s.pkl", b"\x80", "pickle"),
        ("s.pkl", pickle.dumps([]), "pred_score and gt_label"),
        ("s.pkl", pickle.dumps([np.zeros(3)]), "entry 0 holds Inert"),
        ("s.pkl", pickle.dumps([{"rec_scores": [1]}]), "entry 0 holds rec_scores; expected"),
        (
            "s.pkl",
            pickle.dumps([{"pred_score": np.zeros(n), "gt_label": 0} for n in (2, 3)]),
            r"pred_score of entry 1 .*\[3\]",
        ),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        score_files.read(str(tmp_path / name))


def test_a_missing_file_and_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: No such file"):
        score_files.read(str(tmp_path / "none.npz"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        score_files.check_dump(str(tmp_path / "file/s.npz"))
    (tmp_path / "s.npz").mkdir()
    with pytest.raises(UserError, match=rf"{tmp_path}/s\.npz"):
        score_files.check_dump(str(tmp_path / "s.npz"))
    with pytest.raises(UserError, match=r"'scores\.csv'.*\.npz, \.json"):
        score_files.check_dump("scores.csv")
