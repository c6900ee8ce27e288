"""Checks of a configuration and its data before a training starts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax import build, checks
from trn_jax import config as configuration
from trn_jax.config import base
from trn_jax.errors import UserError
from trn_jax.settings import from_dict, protocol_names, to_json
from trn_jax.training import loop, start

NAMES = ("Waving left", "Waving right", "Nodding", "Leaning to port", "Leaning to starboard")


@pytest.fixture
def config(tmp_path):
    """A configuration of a data set of five classes; nothing here opens its frames."""
    (tmp_path / "label_map.txt").write_text("".join(f"{name}\n" for name in NAMES))
    config = configuration.base(dataset="frames", model="tsn_resnet10", num_classes=5)
    config.data_dir = str(tmp_path)
    return config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(num_segments=5), r"data\.train\.num_segments=5 differs from model\.num_segments=8"),
        (dict(sampling="twice"), r"data\.train gives 2 views.*sampling='twice'.*num_clips=1"),
        (dict(sampling="random_clips", num_clips=3), "data.train gives 3 views.*num_clips=3"),
        (dict(crop="ten"), "data.train gives 10 views.*crop='ten'"),
        (dict(num_clips=2), "num_clips=2 means nothing for sampling='random'"),
    ],
)
def test_views_that_cannot_be_trained_on_are_named(config, changes, named):
    checks.check(config)
    config.data.train.update(changes)
    with pytest.raises(UserError, match=named):
        checks.check(config)


# The number of classes


def test_the_label_map_gives_the_number_of_classes(config, tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}_list.txt").write_text("v0 1 0\nv1 1 4\n")
    for name in ("v0", "v1"):
        (tmp_path / "rawframes" / name).mkdir(parents=True)
        (tmp_path / "rawframes" / name / "00001.jpg").write_bytes(b"")
    config.model.num_classes = None
    with pytest.raises(UserError, match=r"--config\.model\.num_classes="):
        build.parts(config, steps_per_epoch=1)
    _, parts = build.training(config, "unused")
    assert config.model.num_classes == 5
    model = nnx.eval_shape(parts.make_model)
    assert model.head.fc.bias.shape == (5,)
    config.model.num_classes = 4
    with pytest.raises(UserError, match=r"label_map.txt.* 5 classes.*model\.num_classes is 4"):
        build.training(config, "unused")


# The loss


def test_balanced_weights_make_up_for_rare_classes():
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2])
    weights = build.balanced_weights(labels, 4)
    assert weights.tolist() == [8 / 12, 1, 8 / 4, 1]
    assert weights[labels].mean() == pytest.approx(1)
    assert weights[labels][labels == 0].sum() == pytest.approx(weights[labels][labels == 2].sum())


def test_the_loss_is_what_the_recipe_says():
    config = base(dataset="frames", model="tsn_resnet10", num_classes=2)
    options = dict(steps_per_epoch=1, train_labels=np.array([0, 0, 1]))
    found = build.parts(config, **options).loss_options
    assert found == {"weight": 1.0, "label_smoothing": 0.0}
    config.train.update(label_smoothing=0.1, class_weights="balanced", loss_weight=2.0)
    found = build.parts(config, **options).loss_options
    assert found.pop("class_weights").tolist() == [0.75, 1.5]
    assert found == {"weight": 2.0, "label_smoothing": 0.1}


@pytest.mark.parametrize(
    "changes",
    [
        {"train.label_smoothing": 0.1},
        {"train.class_weights": "balanced"},
        {"data.balanced": True},
    ],
)
def test_what_needs_one_label_per_video_is_refused_with_several(changes):
    config = base(dataset="frames", model="tsn_resnet10", num_classes=2)
    config.update_from_flattened_dict(changes)
    checks.check(config)
    config.data.multi_label = True
    with pytest.raises(UserError, match=rf"{next(iter(changes))}.*data\.multi_label=True"):
        checks.check(config)


def test_views_are_checked_under_their_names(config):
    config.protocols["3x1"] = configuration.view(crop="three", crop_size=224)
    with pytest.raises(UserError, match=r"protocols\.3x1: .*crop_size.*224"):
        checks.check(config)
    config.protocols["3x1"] = configuration.view(crop="multi_scale")
    with pytest.raises(UserError, match=r"protocols\.3x1\.crop='multi_scale' is random"):
        checks.check(config)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("model"),
        lambda values: values.update(model=5),
        lambda values: values.update(protocols=None),
        lambda values: values["protocols"].update({"a.b": {}}),
        lambda values: values["model"].update(num_classes="many"),
        lambda values: values["data"].update(val=[[]]),
        lambda values: values["data"].update(frames=5),
        lambda values: values["data"]["val"].update(no_such_key=5),
    ],
)
def test_what_is_no_configuration_is_refused(config, change):
    values = json.loads(to_json(config))
    checks.check(from_dict(values))
    change(values)
    with pytest.raises(UserError):
        checks.check(from_dict(values))


def test_double_precision_needs_a_setting_of_jax(config):
    config.model.dtype = "float64"
    with jax.enable_x64(True):
        checks.check(config)
    with pytest.raises(UserError, match=r"float64.*JAX_ENABLE_X64"):
        checks.check(config)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("efficent", "no protocol 'efficent'; did you mean 'efficient'? It has: 1x10, efficient"),
        ("val,10x3", r"no protocol 'val'\. It has: 1x10, efficient"),
    ],
)
def test_a_protocol_that_the_recipe_lacks_is_named(config, wanted, message):
    config.protocols["1x10"] = configuration.view()
    assert protocol_names(config, "1x10,efficient,1x10") == ["1x10", "efficient"]
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        protocol_names(config, wanted)


@pytest.mark.parametrize(("init_from", "rate"), [(None, 1.0), ("weights.pth", 0.1)])
def test_a_drawn_backbone_trains_at_the_full_rate(init_from, rate):
    config = configuration.base(dataset="frames", model="tsm_resnet10", num_classes=2)
    config.init_from, config.optim.lr, config.optim.backbone_rate = init_from, 1.0, 0.1
    config.optim.update(schedule="constant", momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    params = {"backbone": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    optimizer = build.parts(config, steps_per_epoch=1).make_optimizer(params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert float(updates["head"]["kernel"][0]) == -1
    assert float(updates["backbone"]["kernel"][0]) == pytest.approx(-rate)
    assert config.optim.backbone_rate == 0.1  # as it is stored
    warning = start.describe_start(config)
    assert ("optim.backbone_rate=0.1" in warning) == (init_from is None)


def test_a_recipe_that_fine_tunes_needs_weights(tmp_path):
    config = configuration.recipe("finetune").get_config()
    config.data_dir = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"--config\.init_from=.*trn-jax train small.*tsm_resnet50"):
        loop.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    for changes in (dict(init_from="weights.pth"), dict(init_required=False)):
        changed = config.copy_and_resolve_references()
        changed.update(changes)
        checks.check_start(changed)
    assert [n for n in configuration.recipe_names() if _needs_weights(n)] == ["finetune"]


def _needs_weights(name):
    return configuration.recipe(name).get_config().init_required
