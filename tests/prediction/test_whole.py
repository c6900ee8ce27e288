"""Whole videos: the clips and the scores of an evaluation, bit for bit."""

import numpy as np
import pytest
from small_models import NAMES, config_of, store, write_films
from small_training import write_frames

from trn_jax import predict
from trn_jax.config import recipe
from trn_jax.data import pipeline
from trn_jax.data.views import View
from trn_jax.evaluation import evaluate, score_files
from trn_jax.prediction import sources
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.inputs import Inputs
from trn_jax.recipe_data import Data
from trn_jax.settings import resolved_views
from trn_jax.tfds.build_records import build_records

LENGTHS = (3, 9, 20, 14, 5, 26, 31)


def write_data(root, kind):
    """A data set of seven videos; returns what `predict` is given."""
    rng = np.random.default_rng(0)
    if kind == "frames":
        for n, count in enumerate(LENGTHS):
            write_frames(root / "rawframes" / f"v{n}", count, rng, size=(36 + n, 60 - 2 * n))
        entries = [f"v{n} {count}" for n, count in enumerate(LENGTHS)]
    else:
        write_films(root / "videos", LENGTHS)
        entries = [f"film{n}.mp4" for n in range(len(LENGTHS))]
    lines = [f"{entry} {n % 4}\n" for n, entry in enumerate(entries)]
    for split in ("train", "val"):
        (root / f"{split}_list.txt").write_text("".join(lines))
    (root / "label_map.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return root / ("rawframes" if kind == "frames" else "videos")


@pytest.fixture(
    scope="module", params=["frames", pytest.param("videos", marks=pytest.mark.thorough)]
)
def data(request, tmp_path_factory):
    """A checkpoint and the folder of its validation videos."""
    root = tmp_path_factory.mktemp(request.param)
    folder = write_data(root, request.param)
    config = config_of("trn_resnet10")
    config.data_dir = str(root)
    return store(root / "model", config), config, folder


@pytest.mark.parametrize("protocol", ["efficient", "twice_ten"])
def test_scores_equal_those_of_an_evaluation(data, tmp_path, protocol):
    path, _, folder = data
    dump = str(tmp_path / "scores.npz")
    evaluate.evaluate(None, path, str(tmp_path / "run"), protocols=protocol, dump=dump)
    evaluated = score_files.read(dump)
    # Eight devices take a clip each, so a step has as many clips in both.
    answers = list(predict(folder, path, protocol=protocol, timeline=False))
    assert [answer.video.rpartition("/")[2] for answer in answers] == evaluated.videos
    same_step = protocol == "twice_ten"  # 140 clips fill the 16 of an evaluation's step
    predicted = np.stack([answer.scores for answer in answers])
    assert len(np.unique(predicted.round(3), axis=0)) > 4  # videos differ
    if same_step:
        np.testing.assert_array_equal(predicted, evaluated.scores)
    np.testing.assert_allclose(predicted, evaluated.scores, atol=1e-5)


def test_clips_equal_those_of_an_evaluation(data):
    _, config, folder = data
    views = {
        name.removeprefix("protocols."): View(**section)
        for name, section in resolved_views(config).items()
        if name.startswith("protocols.")
    }
    found = Inputs(sources.find([folder]))
    predicted = list(pipeline.EvalVideos(found.records, views, found, seed=config.seed))
    evaluated = list(Data(config, "run").eval_videos(views))
    assert len(predicted) == len(evaluated) == len(LENGTHS)
    for mine, theirs in zip(predicted, evaluated, strict=True):
        assert mine.clips == theirs.clips
        for pixels, others in zip(mine.pixels, theirs.pixels, strict=True):
            np.testing.assert_array_equal(pixels, others)


@pytest.mark.thorough
def test_one_video_alone_gets_the_same_scores(data):
    path, _, folder = data
    predictor = Predictor(path, timeline=False)
    inputs = predictor.find(folder)
    together = list(predictor(inputs))
    (alone,) = predictor(inputs[3:4])
    assert alone.video == together[3].video
    np.testing.assert_allclose(alone.scores, together[3].scores, atol=1e-5)
    assert alone.label == alone.top(1)[0][0] and len(alone.top(9)) == len(NAMES)


def test_a_whole_video_lasts_as_long_as_its_frames(data):
    path, _, folder = data
    ends = [answer.end for answer in predict(folder, path, timeline=False)]
    np.testing.assert_allclose(ends, np.array(LENGTHS) / 25, atol=0.01)


@pytest.mark.slow
def test_the_view_can_be_changed_and_the_change_is_named(data):
    path, _, folder = data
    predictor = Predictor(path, num_segments=4, crop="ten", timeline=False)
    assert predictor.contract.changes == ("crop='ten' instead of 'center' of the checkpoint",)
    changed = list(predictor(predictor.find(folder)))
    plain = list(predict(folder, path, timeline=False))
    assert not np.array_equal(changed[0].scores, plain[0].scores)


@pytest.mark.slow
@pytest.mark.parametrize("multi_label", [False, True])
def test_records_get_the_scores_of_an_evaluation(tmp_path, multi_label):
    write_data(tmp_path, "frames")
    if multi_label:
        for split in ("train", "val"):
            path = tmp_path / f"{split}_list.txt"
            lines = [f"{line} {(n + 1) % 4}" for n, line in enumerate(path.read_text().split("\n"))]
            path.write_text("\n".join(lines[:-1]) + "\n")
    build_records(str(tmp_path), str(tmp_path / "to"), multi_label=multi_label)
    root = tmp_path / "to" / "video_folder"
    config = config_of("trn_resnet10")
    config.data_dir, config.data.multi_label = str(root), multi_label
    path = store(tmp_path / "model", config)
    dump = str(tmp_path / "scores.npz")
    evaluate.evaluate(None, path, str(tmp_path / "run"), protocols="twice_ten", dump=dump)
    answers = [
        answer
        for answer in predict(root, path, protocol="twice_ten", timeline=False)
        if "/validation/" in answer.video
    ]
    evaluated = score_files.read(dump)
    np.testing.assert_array_equal([answer.scores for answer in answers], evaluated.scores)
    # Their rate is that of training examples.
    assert [answer.end for answer in answers] == [count / 25 for count in LENGTHS]


@pytest.mark.slow
def test_every_validation_clip_of_the_synthetic_recipe(tmp_path):
    config = recipe("trn_synthetic").get_config()
    config.data_dir = str(tmp_path / "synthetic")
    data = Data(config, str(tmp_path / "run"))
    views = {"efficient": View(**resolved_views(config)["protocols.efficient"])}
    lines = (tmp_path / "synthetic" / "val_list.txt").read_text().splitlines()
    listed = [f"rawframes/{line.split()[0]}\n" for line in lines]
    (tmp_path / "synthetic" / "videos.txt").write_text("".join(listed))
    found = Inputs(sources.find([tmp_path / "synthetic" / "videos.txt"]))
    options = dict(seed=config.seed, num_threads=2)
    predicted = pipeline.EvalVideos(found.records, views, found, **options)
    for mine, theirs in zip(predicted, data.eval_videos(views), strict=True):
        assert mine.clips == theirs.clips
        np.testing.assert_array_equal(mine.pixels[0], theirs.pixels[0])
