"""Heads and models against written-out formulas, and the properties that set TRN and TSN apart."""

import fnmatch
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights
from flax import nnx

import trn_jax
from trn_jax import models
from trn_jax.backbones import swin
from trn_jax.backbones.resnet import BasicBlock, ResNet
from trn_jax.convert import variables
from trn_jax.data import datasets, motions
from trn_jax.errors import UserError
from trn_jax.models.recognizer import IMAGENET_MEAN, IMAGENET_STD
from trn_jax.models.trn import Relation, TRNHead
from trn_jax.models.tsn import TSNHead
from trn_jax.nn.layers import dropout

CHANNELS, CLASSES = 6, 5


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fill(model):
    """Give an abstract model numbers from NumPy: compiling `jax.random` takes far longer."""
    for seed, (path, leaf) in enumerate(variables(model).items()):
        value = draw(*leaf.shape, seed=seed) / math.sqrt(max(leaf.size // leaf.shape[-1], 1))
        value = 1 + value**2 if path.endswith(("var", "scale")) else value
        leaf.set_value(jnp.asarray(value, leaf.dtype))
    return model


def build(head_class, **options):
    return fill(nnx.eval_shape(lambda: head_class(CHANNELS, CLASSES, rngs=nnx.Rngs(0), **options)))


def trn(num_segments=4, **options):
    options = dict(multi_scale=True, embedding_channels=3) | options
    return build(TRNHead, num_segments=num_segments, **options)


@nnx.jit(static_argnames="train")
def run(head, features, *, train=False, seed=0, clip_index=None):
    """Call a head; one program compiles faster than its operations one by one."""
    key = jax.random.key(seed)
    rngs = nnx.Rngs(dropout=jax.random.fold_in(key, 0), relations=jax.random.fold_in(key, 1))
    return head(features, train=train, rngs=rngs, clip_index=clip_index)


def close(actual, expected, atol=1e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5, atol=atol)


def differ(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


# The registry


def test_list_models_is_sorted_and_takes_a_pattern():
    names = trn_jax.list_models()
    assert names == sorted(names) and set(names) < set(models.MODELS)
    assert all(fnmatch.fnmatch(n, "*_resnet1[04]") for n in set(models.MODELS) - set(names))
    assert trn_jax.list_models("trn_resnet10") == ["trn_resnet10"]
    assert trn_jax.list_models("trn_*") == [n for n in names if n.startswith("trn_")]
    assert {"tsn_resnet50", "trn_resnet50"} <= set(names)
    assert trn_jax.list_models("nothing*") == []


def test_list_backbones_has_those_of_listed_models():
    names = models.list_backbones()
    assert names == sorted(names) and set(names) < set(models.BACKBONES)
    assert {"resnet50", "swin_tiny", "vit_base"} <= set(names)
    assert {"resnet10", "resnext14_32x4d", "mobileone_tiny"}.isdisjoint(names)
    assert models.list_backbones("resnet10") == ["resnet10"]
    assert models.list_backbones("nothing*") == []


def shape_of_logits(model, *shape):
    clips = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return nnx.eval_shape(lambda model, clips: model(clips), model, clips)


# Of the registered data sets; folders of frames can have any number.
NUM_CLASSES = {
    "synthetic": 16,
    "sthv1": 174,
    "sthv2": 174,
    "k400": 400,
    "jester": 27,
    "charades": 157,
    "moments": 339,
    "ucf101": 101,
    "hmdb51": 51,
    "frames": 7,
}


def test_the_numbers_of_classes_are_those_of_all_data_sets():
    assert NUM_CLASSES.keys() == datasets.DATASETS.keys()
    assert NUM_CLASSES["synthetic"] == len(motions.CLASS_NAMES)


class Outline(nnx.Module):
    """In place of the backbone of `model`: maps of the same channels, without the work."""

    draws = False

    def __init__(self, model, *, temporal=None, dtype, rngs):
        self.sees_clips = model.backbone.sees_clips
        self.stage_channels = tuple(model.backbone.stage_channels)
        self.out_channels = model.backbone.out_channels
        self.dtype = dtype

    def __call__(self, x, **_):
        sizes = [x.shape[-2] >> i for i in range(2, 2 + len(self.stage_channels))]
        shapes = zip(sizes, self.stage_channels, strict=True)
        return [jnp.zeros((*x.shape[:-3], size, size, channels)) for size, channels in shapes]


def check_outputs(model, num_classes):
    clips = jax.ShapeDtypeStruct((2, 3, 224, 224, 3), jnp.uint8)
    for train in (False, True):
        logits, auxiliary = nnx.eval_shape(
            lambda model, clips, train=train: model.outputs(
                clips, train=train, rngs=nnx.Rngs(0) if train else None
            ),
            model,
            clips,
        )
        assert (logits.shape, logits.dtype) == ((2, num_classes), jnp.float32)
        assert (auxiliary is None) == (model.neck is None or not train)
        assert auxiliary is None or auxiliary.shape == logits.shape


@pytest.mark.thorough("resnet10", "resnet14", "trn_resnet50")
@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_scores_clips_of_every_data_set(name, monkeypatch):
    whole = abstract(name, num_classes=174, num_segments=3)
    check_outputs(whole, 174)
    # Backbones do not know of classes, and take nearly all of the time.
    monkeypatch.setitem(models.BACKBONES, "outline", partial(Outline, whole))
    for num_classes in NUM_CLASSES.values():
        options = dict(num_classes=num_classes, num_segments=3)
        check_outputs(abstract(name, backbone="outline", **options), num_classes)


def abstract(name="trn_resnet10", **options):
    return nnx.eval_shape(lambda: trn_jax.create_model(name, **dict(num_classes=5) | options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            dict(name="trn_resnet51"),
            ["model 'trn_resnet51'", "did you mean 'trn_resnet50'?", "tsn_resnet18"],
        ),
        (dict(backbone="vgg"), ["backbone 'vgg'. Known: ", "resnet10, resnet101"]),
        (dict(head="trm"), ["head 'trm'", "trn, trn_multiscale, tsm, tsn"]),
        (dict(dropuot_rate=0.5), ["'dropuot_rate'", "dropout_rate", "norm_group", "partial_bn"]),
        (dict(name="tsn_resnet10", eval_relations="first"), ["'tsn'", "'eval_relations'"]),
        (dict(eval_relations="all"), ["eval_relations='all'", "sample, expected, first"]),
        (dict(train_relations="all"), ["train_relations='all'", "sample, expected, first"]),
        (dict(num_segments=1), ["at least 2 frames", "num_segments=1"]),
        (dict(mean=(1.0, 2.0)), ["mean=(1.0, 2.0)", "three numbers"]),
        (dict(std=(1.0, 0.0, 1.0)), ["std=(1.0, 0.0, 1.0)", "positive"]),
    ],
)
def test_errors_name_the_choices(options, words):
    with pytest.raises(UserError) as caught:
        abstract(**options)
    assert [word for word in words if word not in str(caught.value)] == []


def test_options_reach_their_parts_and_none_means_the_default():
    model = abstract(
        "tsn_resnet50",
        backbone="resnet10",
        head="trn",
        width=4,
        partial_bn=None,
        dropout_rate=0.3,
        norm_group=2,
        eval_relations=None,
    )
    assert model.backbone.out_channels == 32
    assert not model.backbone.layer1[0].bn1.frozen
    assert model.head.dropout_rate == 0.3
    assert model.head.eval_relations == "expected"
    assert model.norm_group == 2
    assert len(model.head.relations) == 1  # "trn" has one scale, "trn_multiscale" all
    assert len(abstract().head.relations) == 7


@pytest.mark.parametrize("name", ["tsn_resnet10", "trn_resnet10"])
def test_bfloat16_models_store_and_score_in_float32(name):
    model = abstract(name, width=4, num_segments=2, dtype="bfloat16")
    assert {leaf.dtype for leaf in variables(model).values()} == {jnp.dtype("float32")}
    assert model.head.fc.dtype == model.backbone.conv1.dtype == jnp.bfloat16
    assert shape_of_logits(model, 1, 2, 32, 32, 3).dtype == jnp.float32


# TSN


def test_tsn_averages_the_scores_of_any_number_of_frames():
    head = build(TSNHead)
    kernel, bias = np.asarray(head.fc.kernel[...]), np.asarray(head.fc.bias[...])
    for num_frames in (1, 4):
        x = draw(3, num_frames, 2, 2, CHANNELS)
        frame_scores = x.mean((2, 3)) @ kernel + bias
        close(run(head, x), frame_scores.mean(1))


def test_tsn_drops_averaged_features_once_per_clip():
    head = nnx.eval_shape(lambda: TSNHead(16, 16, dropout_rate=0.4, rngs=nnx.Rngs(0)))
    head.fc.kernel.set_value(jnp.eye(16))
    head.fc.bias.set_value(jnp.zeros(16))
    x = 1 + draw(8, 3, 1, 1, 16) ** 2
    y = run(head, x, train=True, clip_index=np.arange(8))
    kept = np.asarray(y) / x.mean((1, 2, 3))
    # With a mask per frame there would be values in between.
    assert ((np.abs(kept) < 1e-6) | (np.abs(kept - 1 / 0.6) < 1e-5)).all()
    assert 0.2 < (kept == 0).mean() < 0.6
    assert differ(kept[0], kept[1]) > 1


# TRN


def relation_of(scale, num_frames):
    return nnx.eval_shape(lambda: Relation(scale, num_frames, 2, 2, 2, rngs=nnx.Rngs(0)))


@pytest.mark.smoke
@pytest.mark.parametrize("num_frames", [2, 3, 5, 8])
def test_relations_are_all_ordered_choices_of_frames(num_frames):
    for scale in range(2, num_frames + 1):
        relation = relation_of(scale, num_frames)
        rows = relation.table().tolist()
        assert relation.table().shape == (math.comb(num_frames, scale), scale)
        assert all(row == sorted(set(row)) for row in rows)
        assert rows == sorted(rows)
        assert len(set(map(tuple, rows))) == len(rows)
        assert {frame for row in rows for frame in row} == set(range(num_frames))
        assert relation.num_used == min(3, math.comb(num_frames, scale))


def test_the_omitted_frame_runs_backwards():
    rows = relation_of(7, 8).table().tolist()
    omitted = [(set(range(8)) - set(row)).pop() for row in rows]
    assert omitted == [7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("num_classes", "head", "published"),
    [
        (27, "trn_multiscale", 2_344_125),
        (174, "trn_multiscale", 2_608_578),
        (339, "trn_multiscale", 2_905_413),
        (174, "trn", 1_138_350),
    ],
)
def test_relation_networks_have_the_published_sizes(num_classes, head, published):
    model = abstract(num_classes=num_classes, head=head)
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model.head.relations))) == published


def relation_scores(head, features):
    """The score of every relation, `[batch, relations, classes]` for each scale, in NumPy."""

    def linear(x, layer):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    embedded = np.maximum(linear(features.mean((2, 3)), head.fc), 0)
    found = []
    for relation in head.relations:
        rows = itertools.combinations(range(features.shape[1]), relation.scale)
        together = np.stack([np.concatenate([embedded[:, t] for t in r], 1) for r in rows], 1)
        hidden = np.maximum(linear(together, relation.hidden), 0)
        found.append(linear(hidden, relation.output))
    return found


def draws(head, features):
    """The scores of the head for every possible draw of relations, `[draws, batch, classes]`."""
    per_scale = [
        [
            scores[:, list(rows)].sum(1)
            for rows in itertools.combinations(range(scores.shape[1]), min(3, scores.shape[1]))
        ]
        for scores in relation_scores(head, features)
    ]
    return np.array([sum(choice) for choice in itertools.product(*per_scale)])


@pytest.mark.parametrize("multi_scale", [True, False])
def test_expected_relations_are_the_mean_over_all_draws(multi_scale):
    head, x = trn(multi_scale=multi_scale), draw(2, 4, 2, 2, CHANNELS)
    outcomes = draws(head, x)
    assert [r.scale for r in head.relations] == ([4, 3, 2] if multi_scale else [4])
    assert len(outcomes) == (1 * 4 * 20 if multi_scale else 1)  # C(1,1) C(4,3) C(6,3)
    close(run(head, x), outcomes.mean(0))
    if multi_scale:
        assert outcomes.std(0).min() > 1e-2  # else every draw would do


def test_first_relations_are_the_first_three_in_lexicographic_order():
    head, x = trn(num_segments=5, eval_relations="first"), draw(2, 5, 1, 1, CHANNELS)
    scores = relation_scores(head, x)
    close(run(head, x), sum(s[:, :3].sum(1) for s in scores))
    assert differ(run(head, x), sum(s[:, -3:].sum(1) for s in scores)) > 1e-2


def test_three_frames_leave_nothing_to_chance():
    x = draw(2, 3, 1, 1, CHANNELS)
    outcomes = [run(trn(3, eval_relations=mode), x) for mode in ("sample", "expected", "first")]
    close(outcomes[0], outcomes[1])
    close(outcomes[2], outcomes[1])


@pytest.fixture(scope="module")
def sampled():
    """Scores in training for many keys, and those of every possible draw."""
    head, x = trn(dropout_rate=0.0), draw(3, 4, 1, 1, CHANNELS)
    graph, state = nnx.split(head)

    @jax.jit
    def for_seeds(state, seeds):
        return jax.lax.map(
            lambda seed: run(nnx.merge(graph, state), x, train=True, seed=seed), seeds
        )

    return np.asarray(for_seeds(nnx.as_pure(state), jnp.arange(400))), draws(head, x)


def test_sampled_relations_are_distinct_and_shared_by_the_batch(sampled):
    scores, outcomes = sampled
    distances = np.abs(scores[:, None] - outcomes).max((2, 3))  # [keys, draws], over the batch
    assert (distances.min(1) < 1e-5).all()


def test_every_draw_of_relations_is_about_as_likely(sampled):
    scores, outcomes = sampled
    drawn = np.abs(scores[:, None] - outcomes).max((2, 3)).argmin(1)
    counts = np.bincount(drawn, minlength=len(outcomes))  # 400 keys, 80 draws: 5 each
    assert (counts > 0).mean() > 0.95
    assert counts.max() < 18
    error = outcomes.std(0) / math.sqrt(len(scores))
    assert (np.abs(scores.mean(0) - outcomes.mean(0)) < 5 * error).all()


def test_sampling_in_evaluation_draws_with_the_given_key():
    head, x = trn(eval_relations="sample"), draw(2, 4, 1, 1, CHANNELS)
    first = run(head, x, seed=0)
    np.testing.assert_array_equal(run(head, x, seed=0), first)
    assert max(differ(run(head, x, seed=seed), first) for seed in (1, 2, 3)) > 1e-3
    with pytest.raises(UserError, match=r"rngs=nnx\.Rngs\(seed\).*eval_relations='expected'"):
        nnx.eval_shape(lambda head, x: head(x), head, x)


@pytest.mark.smoke
def test_trn_in_training_belongs_to_the_clip_and_not_to_its_place():
    head, x = trn(dropout_rate=0.5), draw(4, 4, 1, 1, CHANNELS)
    index = np.array([2, 0, 3, 1])
    straight = np.asarray(run(head, x, train=True, clip_index=np.arange(4)))
    close(run(head, x[index], train=True, clip_index=index), straight[index])
    assert differ(run(head, x[index], train=True, clip_index=np.arange(4)), straight[index]) > 1e-2


def test_trn_drops_features_of_single_frames_before_the_embedding():
    head, x = trn(2, dropout_rate=0.5, train_relations="first"), draw(8, 2, 1, 1, CHANNELS)

    @nnx.jit
    def both(head, x):
        key, index = jax.random.key(0), jnp.arange(8)
        dropped = dropout(x[:, :, 0, 0], 0.5, key=nnx.Rngs(dropout=key).dropout(), clip_index=index)
        return head(x, train=True, rngs=nnx.Rngs(dropout=key), clip_index=index), dropped

    logits, dropped = both(head, x)
    assert (np.asarray(dropped)[:, 0] == 0).mean() == pytest.approx(0.5, abs=0.2)
    close(logits, relation_scores(head, np.asarray(dropped)[:, :, None, None])[0][:, 0])


def test_trn_refuses_other_numbers_of_frames():
    with pytest.raises(UserError, match=r"3 frames.* 4.*num_segments=3"):
        nnx.eval_shape(lambda head, x: head(x), trn(), draw(1, 3, 1, 1, CHANNELS))


# Whole models


def tiny(name, **options):
    options = dict(width=4, num_segments=3, dropout_rate=0.0) | options
    return fill(abstract(name, **options))


@nnx.jit(static_argnames="train")
def score(model, clips, *, train=False):
    return model(clips, train=train, rngs=nnx.Rngs(0) if train else None)


def random_clips(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 32, 32, 3), np.uint8)


def test_tsn_does_not_see_the_order_of_frames():
    model, clips = tiny("tsn_resnet10"), random_clips(2, 3)
    logits = score(model, clips)
    close(score(model, clips[:, [2, 0, 1]]), logits)
    assert differ(score(model, clips[:, [0, 0, 1]]), logits) > 1e-3


ORDERED = ["trn_resnet10", "tsm_resnet10", "tin_resnet10"]


@pytest.mark.by_default("trn_resnet10")
@pytest.mark.parametrize("name", ORDERED)
def test_others_see_the_order_of_frames(name):
    model, clips = tiny(name, width=16), random_clips(2, 3)
    logits = score(model, clips)
    assert differ(score(model, clips[:, ::-1]), logits) > 1e-3
    # Each clip is scored by itself: in another place of the batch, the same.
    close(score(model, clips[::-1]), logits[::-1])


PARTS = [
    dict(head="tsn"),
    dict(head="trn"),
    dict(head="trn_multiscale"),
    dict(head="tsm", temporal_op="tsm"),
    dict(head="tsm", temporal_op="tin"),
    dict(head="tpn", neck="tpn", conv_groups=4, temporal_scales=(4, 4)),
]


@pytest.mark.by_default("trn", "tsm-tsm", slow=("tpn-tpn",))
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(map(str, parts.values())))
def test_every_part_learns_and_only_averages_miss_the_order(parts, monkeypatch):
    # The smallest network with a place for all parts, so that compiling it takes seconds.
    monkeypatch.setitem(models.BACKBONES, "shallow", partial(ResNet, BasicBlock, (1, 1)))
    options = dict(backbone="shallow", width=16, num_segments=4, dropout_rate=0.0) | parts
    graph, *states = nnx.split(fill(abstract("tsn_resnet10", **options)), nnx.Param, ...)
    params, others = nnx.as_pure(tuple(states))
    clips, labels = random_clips(2, 4), np.array([0, 1])

    @jax.jit
    def step(params, clips):
        def loss(params):
            model = nnx.merge(graph, params, others)
            scores = [
                s for s in model.outputs(clips, train=True, rngs=nnx.Rngs(0)) if s is not None
            ]
            return -sum(jax.nn.log_softmax(s)[np.arange(2), labels].mean() for s in scores)

        model = nnx.merge(graph, params, others)
        return jax.grad(loss)(params), model(clips), model(clips[:, ::-1])

    gradients, forward, backward = step(params, clips)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name
    assert np.isfinite(forward).all()
    order = differ(forward, backward) / float(np.abs(forward).max())
    assert order < 1e-5 if parts["head"] == "tsn" else order > 1e-2


def test_every_temporal_op_neck_and_head_is_among_these_parts():
    found = {(kind, name) for parts in PARTS for kind, name in parts.items()}
    for kind, registry in (
        ("temporal_op", models.TEMPORAL_OPS),
        ("neck", models.NECKS),
        ("head", models.HEADS),
    ):
        assert {(kind, name) for name in registry} <= found


@pytest.mark.by_default("trn_resnet10")
@pytest.mark.parametrize(
    ("name", "num_draws", "options"),
    [
        ("tsn_resnet10", 1, dict(width=4)),
        ("trn_resnet10", 1 + 7, dict(width=4)),  # features, and relations of 8, 7, ..., 2 frames
        ("tsm_resnet10", 1, dict(width=8)),
        ("tpn_slowonly_resnet14", 2, dict(width=4)),
        # Both branches of 24 blocks, and features.
        ("tsn_swin_base", 2 * 24 + 1, dict(width=4, head_channels=2, window=2)),
    ],
)
def test_no_two_draws_of_a_step_share_a_key(name, num_draws, options, monkeypatch):
    keys = []

    def dropped(x, rate, *, key, clip_index):
        keys.append(jax.random.key_data(key))
        return x

    def permuted(key, x):
        keys.append(jax.random.key_data(key))
        return jnp.arange(x)

    for module in (models.tsn, models.trn, models.tsm):
        monkeypatch.setattr(module, "dropout", dropped)
    monkeypatch.setattr(swin, "drop_path", dropped)
    monkeypatch.setattr(jax.random, "permutation", permuted)
    model = fill(abstract(name, num_segments=8, **options))

    @nnx.jit
    def keys_of(model, clips):
        # As a step has it: one seed, and a stream for each purpose.
        streams = jax.random.split(jax.random.fold_in(jax.random.key(0), 0))
        rngs = nnx.Rngs(dropout=streams[0], relations=streams[1])
        model(clips, train=True, rngs=rngs)
        return jnp.stack(keys)

    found = np.asarray(keys_of(model, np.zeros((1, 8, 64, 64, 3), np.uint8)))
    assert len(found) == len(np.unique(found, axis=0)) == num_draws


@pytest.mark.by_default("trn_resnet10")
@pytest.mark.parametrize("name", ["tsn_resnet10", *ORDERED])
def test_bfloat16_scores_are_close_to_those_of_float32(name):
    options = dict(width=16, num_segments=4)
    clips = random_clips(2, 4)
    logits = score(tiny(name, **options), clips)
    low = score(tiny(name, dtype="bfloat16", **options), clips)
    assert 0 < differ(low, logits) < 3e-2 * np.abs(logits).max()


@pytest.mark.parametrize("name", ["tsm_resnet10", "tin_resnet10"])
def test_models_that_exchange_features_need_their_number_of_frames(name):
    model = abstract(name, num_segments=4)
    # Twice as many frames would make whole clips, but not these.
    for num_frames in (3, 8):
        message = rf"{num_frames} frames.*num_segments=4.*num_segments={num_frames}"
        with pytest.raises(UserError, match=message):
            shape_of_logits(model, 4, num_frames, 32, 32, 3)
    assert shape_of_logits(model, 3, 4, 32, 32, 3).shape == (3, 5)


def test_what_sets_tin_apart_from_tsm():
    tin, tsm = abstract("tin_resnet10"), abstract("tsm_resnet10")
    assert (tin.head.dropout_rate, tsm.head.dropout_rate) == (0.8, 0.5)
    assert tin.backbone.layer2[0].temporal_op.num_interlaced == 64 // 4
    assert tsm.backbone.layer2[0].temporal_op.num_shifted == 64 // 8
    assert type(tin.head) is type(tsm.head)
    # Options of a model give way to the caller's, and lapse with the part that took them.
    assert abstract("tin_resnet10", dropout_rate=0.5).head.dropout_rate == 0.5
    with pytest.MonkeyPatch.context() as patch:
        entry = models.MODELS["tin_resnet10"]
        options = entry["options"] | dict(no_longer_taken=1)
        patch.setitem(models.MODELS, "tin_resnet10", entry | dict(options=options))
        assert abstract("tin_resnet10").head.dropout_rate == 0.8


def test_a_backbone_without_a_place_for_a_temporal_op_is_refused():
    class Still(nnx.Module):
        def __init__(self, *, dtype, rngs):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.BACKBONES, "still", Still)
        with pytest.raises(UserError, match=r"'still' .*'tsm'"):
            abstract("tsm_resnet10", backbone="still")


@pytest.mark.thorough
def test_pixels_are_normalised_in_rgb_order():
    model = tiny("tsn_resnet10")
    pixels = np.array([[[[123.675, 116.28, 103.53], [182.07, 59.16, 160.905]]]])
    close(model.normalise(pixels), [[[[0, 0, 0], [1, -1, 1]]]], atol=1e-6)
    assert (model.mean, model.std) == (IMAGENET_MEAN, IMAGENET_STD)
    whole = random_clips(1)
    np.testing.assert_array_equal(model.normalise(whole), model.normalise(whole.astype("float32")))
    for caffe in ("trn_bninception", "tsn_bninception"):
        close(abstract(caffe).normalise(np.full((1, 1, 1, 3), 130.0)), [[[[2, 13, 26]]]])
    other = abstract("tsn_resnet10", mean=(104, 117, 128), std=(1, 2, 4))
    close(other.normalise(np.full((1, 1, 1, 3), 130.0)), [[[[26, 6.5, 0.5]]]])


def test_pixels_are_normalised_as_in_the_reference(golden):
    record = golden("pipeline/image_transforms")["normalise"]
    frames = weights.deterministic_clip(record["source"]["shape"], record["source"]["seed"])
    found = abstract("tsn_resnet10").normalise(frames)
    expected = np.reshape(record["values"], record["output_shape_N_M_C_H_W"])[0]
    close(found, expected.transpose(0, 2, 3, 1), atol=1e-6)


@pytest.mark.by_default("tsn_resnet10")
@pytest.mark.parametrize("name", ["tsn_resnet10", "trn_resnet10"])
def test_norm_groups_train_as_separate_gpus(name):
    clips = random_clips(4, 3)
    clips[2:] //= 4  # so that the groups have different statistics
    # One draw for the groups and the whole; otherwise there is nothing random.
    options = dict(train_relations="first") if name == "trn_resnet10" else {}
    grouped, parts = tiny(name, norm_group=2, **options), []
    statistics = []
    for half in (clips[:2], clips[2:]):
        model = tiny(name, **options)
        parts.append(score(model, half, train=True))
        statistics.append(nnx.as_pure(nnx.state(model, nnx.BatchStat)))
    close(score(grouped, clips, train=True), np.concatenate(parts), atol=1e-4)
    expected = jax.tree.map(lambda a, b: np.asarray(a + b) / 2, *statistics)
    found = nnx.as_pure(nnx.state(grouped, nnx.BatchStat))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), found, expected)
    assert differ(statistics[0]["backbone"]["bn1"]["mean"], found["backbone"]["bn1"]["mean"]) > 0.01


@pytest.mark.parametrize(
    ("shape", "train", "message"),
    [
        ((3, 32, 32, 3), False, r"shape \(3, 32, 32, 3\), expected \[batch, frames"),
        ((1, 3, 3, 32, 32), False, r"expected \[batch, frames, height, width, 3\]"),
        ((2, 3, 32, 32, 3), True, r"rngs=nnx\.Rngs"),
    ],
)
def test_calls_that_cannot_work_are_explained(shape, train, message):
    model = abstract("tsn_resnet10", width=4)
    with pytest.raises(UserError, match=message):
        model(jnp.zeros(shape, jnp.uint8), train=train)


def test_norm_groups_must_divide_the_batch():
    model = abstract("tsn_resnet10", width=4, norm_group=4)
    with pytest.raises(UserError, match=r"a batch of 6 clips .*norm_group=4"):
        model(jnp.zeros((6, 1, 32, 32, 3), jnp.uint8), train=True, rngs=nnx.Rngs(0))


# Views


def test_heads_merge_views_as_published():
    assert abstract("tsn_resnet10").merge_views == "logits"
    for head in ("trn", "trn_multiscale", "tsm"):
        assert abstract("trn_resnet10", head=head).merge_views == "probabilities"
