"""`trn_jax.explain`: what is explained is what is predicted."""

import json

import numpy as np
import pytest
from logits import logits_of
from small_models import NAMES, config_of, store

import trn_jax
from trn_jax.errors import UserError
from trn_jax.explanation.alignment import align, warped
from trn_jax.explanation.api import Explainer
from trn_jax.explanation.explanation import Explanation
from trn_jax.explanation.order import ORDERS


@pytest.fixture(scope="module")
def explainer(models):
    """The `Explainer` of a TRN, whose programs are compiled once for all tests."""
    return Explainer(models("trn_resnet10"), classes=["turning", 0, "0", np.int64(3)])


@pytest.fixture(scope="module")
def found(explainer, film):
    """The explanation of a video by a TRN, in a list."""
    return list(explainer(explainer.find(film)))


@pytest.mark.smoke
def test_scores_are_those_of_the_prediction(models, film, found):
    (answer,) = trn_jax.predict(film, models("trn_resnet10"))
    (each,) = found
    np.testing.assert_allclose(each.scores, answer.scores, atol=1e-5)
    assert each.label == answer.label and each.video == answer.video
    assert each.classes[0] == answer.scores.argmax()
    assert {NAMES.index("turning"), 0, 3} <= set(each.classes.tolist())
    assert len(set(each.classes.tolist())) == len(each.classes)


def test_frames_of_the_clip(found):
    (each,) = found
    np.testing.assert_array_equal(each.frames, [2, 7, 12, 17])
    np.testing.assert_allclose(each.times, each.frames / 25, atol=1e-3)
    assert each.pixels.shape == (4, 28, 28, 3) and each.maps.shape[:2] == each.values.values.shape


def test_logits_are_those_of_the_relations(models, found):
    (each,) = found
    logits = logits_of(models("trn_resnet10"), each.pixels[None])[0, each.classes]
    np.testing.assert_allclose(each.values.all, logits, atol=1e-4)
    np.testing.assert_allclose(sum(s.scores for s in each.scales), logits, atol=1e-4)


def test_orders_and_beginnings(found):
    (each,) = found
    assert tuple(each.order) == ORDERS
    np.testing.assert_allclose(each.order["forward"], each.scores, atol=1e-5)
    assert each.early.shape == (10, 4)
    # The whole video is its own last beginning.
    np.testing.assert_allclose(each.early[-1], each.scores, atol=1e-5)
    assert abs(each.early[0] - each.scores).max() > 1e-5
    difference = each.order["forward"] - each.order["reversed"]
    np.testing.assert_array_equal(each.order_scores, difference[each.classes])


def test_the_first_tenth_is_seen_as_if_the_video_ended_there(models, film, found, tmp_path):
    (tmp_path / "part.csv").write_text(f"video,start,end\n{film},0,0.08\n")  # two of 20 frames
    (part,) = trn_jax.predict(str(tmp_path / "part.csv"), models("trn_resnet10"))
    np.testing.assert_allclose(found[0].early[0], part.scores, atol=1e-5)


def test_a_model_that_averages_frames_has_no_order(models, film):
    (each,) = trn_jax.explain(film, models("tsn_resnet10"), parts=["order"])
    np.testing.assert_allclose(each.order_scores, 0, atol=1e-6)
    np.testing.assert_allclose(each.order["shuffled"], each.scores, atol=1e-6)
    assert each.values is None and each.maps is None


@pytest.mark.thorough
def test_several_views_are_merged_and_one_is_explained(models, film):
    model = models("tsn_resnet10")
    options = dict(protocol="twice_ten")
    (answer,) = trn_jax.predict(film, model, **options)
    (each,) = trn_jax.explain(film, model, parts=["order"], **options)
    np.testing.assert_allclose(each.scores, answer.scores, atol=1e-5)
    assert any("of 20 is explained" in note for note in each.notes)
    (plain,) = trn_jax.explain(film, model, parts=["order"])  # the centre crop, middle frames
    np.testing.assert_array_equal(each.pixels, plain.pixels)


@pytest.mark.thorough
def test_other_samplings_see_beginnings_too(models, film):
    model = models("tsm_resnet10")
    (answer,) = trn_jax.predict(film, model, protocol="clips")
    (each,) = trn_jax.explain(film, model, protocol="clips")
    np.testing.assert_allclose(each.scores, answer.scores, atol=1e-5)
    assert each.early.shape == (10, 4) and np.isfinite(each.early).all()
    np.testing.assert_allclose(each.early[-1], each.order["forward"], atol=1e-5)


@pytest.mark.thorough
def test_drawn_relations_are_explained_by_their_expectation(film, tmp_path):
    path = store(tmp_path / "model", config_of("trn_resnet10", eval_relations="sample"))
    model = trn_jax.load_model(path)
    (each,) = trn_jax.explain(film, model, parts=["frames"])
    assert model.head.eval_relations == "sample"
    np.testing.assert_allclose(each.values.values.sum(), each.values.all[0] - each.values.none[0])


def test_unreadable_videos_cost_themselves(explainer, film, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    broken = str(tmp_path / "broken.mp4")
    found = list(explainer(explainer.find([broken, film])))
    assert "broken.mp4" in found[0].problem and not found[1].problem
    assert found[0].label == "" and found[0].to_dict().keys() == {"video", "problem"}


def test_json_has_all_numbers(found):
    (each,) = found
    content = json.loads(json.dumps(each.to_dict(), allow_nan=False))
    first = content["classes"][0]
    assert content["label"] == each.label and len(content["frames"]) == 4
    assert len(first["values"]) == 4 and len(first["early"]) == 10
    assert [scale["frames"] for scale in first["scales"]] == [2, 3, 4]


def test_deciding_frames_are_in_order(found):
    (each,) = found
    values = each.values.values[0]
    best = each.deciding(2)
    assert sorted(best) == best.tolist() and set(best) == set(np.argsort(-values)[:2])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (dict(classes=["fallin"]), "'fallin'.*'falling'"),
        (dict(classes=[4]), "class 4.*0 to 3"),
        (dict(classes=["4"]), "class 4.*0 to 3"),
        (dict(classes=["-1"]), "'-1'"),
        (dict(classes=["9" * 5000]), "class 9.*0 to 3"),
        (dict(classes=[1.5]), "class 1.5"),
        (dict(classes=[True]), "class True"),
        (dict(parts=["frame"]), "parts='frame'"),
        (dict(num_shuffles=0), "num_shuffles=0"),
        (dict(num_orders=3), "num_orders=3"),
        (dict(stage=9), "stage=9"),
        (dict(protocol="none"), "no protocol 'none'"),
        (dict(num_segments=3), "num_segments=3"),
    ],
)
def test_wrong_options(models, options, problem):
    with pytest.raises(UserError, match=problem):
        Explainer(models("trn_resnet10"), **options)


def test_streams_are_refused(models):
    with pytest.raises(UserError, match=r"rtsp://.*stream"):
        list(trn_jax.explain("rtsp://camera/1", models("trn_resnet10")))


@pytest.mark.thorough
def test_models_without_a_head_are_refused(tmp_path):
    from trn_jax import create_model
    from trn_jax.checkpoints import checkpoint

    config = config_of("tsn_resnet10", num_classes=0)
    model = create_model(**config.model)
    about = {"config": config.to_dict(), "class_names": []}
    checkpoint.save_model(str(tmp_path / "model"), model, about)
    with pytest.raises(UserError, match="no head"):
        Explainer(str(tmp_path / "model"))


def test_models_without_maps(models, film, monkeypatch):
    def refuse(*_, **__):
        raise UserError("no maps")

    monkeypatch.setattr("trn_jax.explanation.api.ActivationMaps", refuse)
    explainer = Explainer(models("trn_resnet10"))
    assert explainer.notes == ["no maps"]
    with pytest.raises(UserError, match="no maps"):
        Explainer(models("trn_resnet10"), parts=["where"])


# Alignment


def test_a_trn_aligns_by_representative_frames(found):
    (each,) = found
    alignment = align(each, each, scale=2)
    best = each.scales[0].best[0]
    np.testing.assert_array_equal(alignment.pairs, np.stack([best, best], axis=1))
    assert alignment.method == "representative frames" and alignment.label == each.classes[0]
    assert len(align(each, each).pairs) == 4
    with pytest.raises(UserError, match="scale=9"):
        align(each, each, scale=9)
    with pytest.raises(UserError, match="class 99"):
        align(each, each, label=99)
    with pytest.raises(UserError, match="gone"):
        align(each, Explanation(video="x", problem="gone"))


def test_other_models_align_by_time_warping(rng):
    vectors = rng.normal(size=(5, 8))
    np.testing.assert_array_equal(warped(vectors, vectors), np.arange(5)[:, None].repeat(2, axis=1))
    slow = vectors[[0, 0, 1, 2, 2, 2, 3, 4]]
    pairs = warped(vectors, slow)
    np.testing.assert_array_equal(pairs[:, 1], np.arange(8))
    np.testing.assert_array_equal(pairs[:, 0], [0, 0, 1, 2, 2, 2, 3, 4])
