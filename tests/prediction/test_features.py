"""Features of videos: the vectors of the model on the clips of the view, with their times."""

import numpy as np
import pytest
from flax import nnx
from small_models import config_of, store, write_films
from small_training import write_frames

from trn_jax import create_model, extract_features, load_model
from trn_jax.checkpoints import checkpoint
from trn_jax.data.pipeline import EvalVideos
from trn_jax.errors import UserError
from trn_jax.prediction import sources
from trn_jax.prediction.features import FeatureExtractor
from trn_jax.prediction.inputs import Inputs

LENGTHS = (3, 9, 20, 14, 31)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    write_films(root, LENGTHS)
    return root


@pytest.fixture(scope="module")
def extractor(trn):
    return FeatureExtractor(trn, num_threads=2)


def expected(model, view, folder):
    """The frames' numbers and `model.features` of every video's clips."""
    opened = Inputs(sources.find([folder]))
    features = nnx.jit(lambda model, clips: model.features(clips))
    for video in EvalVideos(opened.records, {"view": view}, opened, seed=0):
        for clip, pixels in video.pairs():
            yield np.array(clip.frames), np.asarray(features(model, pixels[None]))[0]


def test_vectors_of_frames_are_those_of_the_clips(extractor, trn, films):
    found = list(extractor(extractor.find(films)))
    clips = list(expected(load_model(trn), extractor.contract.view, films))
    assert [each.video.rpartition("/")[2] for each in found] == [
        f"film{n}.mp4" for n in range(len(LENGTHS))
    ]
    for each, (frames, vectors) in zip(found, clips, strict=True):
        # A video of three frames shows one of them twice.
        numbers, places = np.unique(frames, return_index=True)
        np.testing.assert_allclose(each.times, numbers / 25, atol=1e-6)
        np.testing.assert_allclose(each.vectors, vectors[places], atol=1e-5)
    assert np.ptp(np.concatenate([each.vectors for each in found]), axis=0).max() > 0.1


@pytest.mark.by_default("tsm")
@pytest.mark.parametrize("kind", ["trn", "tsm"])
def test_vectors_of_clips_are_means_over_frames(kind, request, films):
    path = request.getfixturevalue(kind)
    extractor = FeatureExtractor(path, per="clip")
    found = list(extractor(extractor.find(films)))
    clips = list(expected(load_model(path), extractor.contract.view, films))
    for each, (frames, vectors) in zip(found, clips, strict=True):
        assert each.times == pytest.approx([(frames[0] + frames[-1]) / 2 / 25])
        np.testing.assert_allclose(each.vectors, [vectors.mean(axis=0)], atol=1e-5)


@pytest.mark.thorough
def test_views_with_several_crops_and_clips(trn, films):
    (one,) = extract_features(films / "film2.mp4", trn, protocol="twice_ten")
    assert one.vectors.shape[0] == 8 and (np.diff(one.times) > 0).all()
    (two,) = extract_features(films / "film2.mp4", trn, protocol="twice_ten", per="clip")
    assert two.vectors.shape[0] == 2
    # Eight different frames in two clips of four.
    np.testing.assert_allclose(two.vectors.mean(0), one.vectors.mean(0), atol=1e-5)


@pytest.mark.thorough
def test_frames_at_regular_times(trn, extractor, films):
    found = list(extract_features(films, trn, every=0.2))
    for each, count in zip(found, LENGTHS, strict=True):
        np.testing.assert_allclose(each.times, np.arange(0, count / 25 - 1e-6, 0.2))
    # Frame 5 is shown at 0.2 s; a clip of it alone has the same features.
    opened = Inputs(sources.find([films / "film2.mp4"]))
    with opened.open(opened.records[0]) as video:
        from trn_jax.prediction.windows import Crops

        crop = Crops(extractor.contract.view).cut(video.read([5])[0])
    vector = np.asarray(load_model(trn).features(crop[None]))[0, 0]
    np.testing.assert_allclose(found[2].vectors[1], vector, atol=1e-5)


@pytest.mark.thorough
def test_windows_at_regular_times(tsm, films):
    found = list(extract_features(films, tsm, every=0.4))
    # Windows of 0.8 s: short videos have one, the last one ends with the video.
    np.testing.assert_allclose(found[0].times, [0.06], atol=1e-6)
    np.testing.assert_allclose(found[4].times, [0.4, 0.8, 0.84], atol=1e-6)
    (alone,) = extract_features(films / "film4.mp4", tsm, every=0.4)
    np.testing.assert_allclose(alone.vectors, found[4].vectors, atol=1e-5)


@pytest.mark.thorough
def test_a_model_without_a_head(tmp_path, trn, films):
    config = config_of("trn_resnet10")
    model = load_model(trn)
    model.head = None
    stored = config.to_dict()
    stored["model"]["num_classes"] = 0
    about = {"config": stored, "class_names": []}
    checkpoint.save_model(str(tmp_path / "backbone"), model, about)
    found = extract_features(films, tmp_path / "backbone")
    for each, other in zip(found, extract_features(films, trn), strict=True):
        np.testing.assert_allclose(each.vectors, other.vectors, atol=1e-5)


@pytest.mark.thorough
def test_frame_folders_parts_and_unreadable_videos(tmp_path, trn, films):
    rng = np.random.default_rng(0)
    write_frames(tmp_path / "frames", 8, rng)
    (tmp_path / "text.mp4").write_text("not a film\n")
    (tmp_path / "list.csv").write_text(
        f"video,start,end\n{films}/film4.mp4,0.4,0.8\nframes,,\ntext.mp4,,\n"
    )
    part, frames, text = extract_features(tmp_path / "list.csv", trn)
    assert part.times.min() >= 0.4 and part.times.max() < 0.8 and not part.problem
    np.testing.assert_allclose(frames.times, np.array([1, 3, 5, 7]) / 25)
    assert "it is text" in text.problem and text.vectors.size == 0
    part, frames, text = extract_features(tmp_path / "list.csv", trn, every=0.1)
    np.testing.assert_allclose(part.times, [0.4, 0.5, 0.6, 0.7], atol=1e-6)
    assert len(frames.times) == 4 and "it is text" in text.problem
    unknown = store(tmp_path / "model", config_of("trn_resnet10"), sampling=None)
    (found,) = extract_features(tmp_path / "frames", unknown)
    assert np.isnan(found.times).all() and len(found.vectors) == 4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(per="video"), "per='video'"),
        (dict(every=0), "every=0"),
        (dict(every=float("nan")), "every=nan"),
        (dict(protocol="gone"), "'gone'"),
        (dict(num_segments=-1), "-1"),
    ],
)
def test_wrong_options(trn, options, match):
    with pytest.raises(UserError, match=match):
        FeatureExtractor(trn, **options)


@pytest.mark.thorough
def test_wrong_models_and_sources(trn, tsm, films):
    with pytest.raises(UserError, match="per='frame'"):
        FeatureExtractor(tsm, per="frame")
    with pytest.raises(UserError, match="num_segments=4"):
        FeatureExtractor(tsm, num_segments=3)
    with pytest.raises(UserError, match="load_model"):
        FeatureExtractor(create_model("trn_resnet10", num_classes=2, width=2, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="rtsp"):
        next(extract_features("rtsp://example.invalid/a", trn))
