"""`trn-jax reparameterize`, and checkpoints that are fused as they are read."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from trn_jax import checks, cli, config, create_model
from trn_jax.checkpoints import calibration_file, checkpoint
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.evaluation import calibration
from trn_jax.evaluation.scores import Scores
from trn_jax.settings import from_dict


def saved(folder, model="tsn_mobileone_s4", **options):
    """A checkpoint of a model with random statistics; the model and its configuration."""
    settings = config.base(dataset="frames", model=model, num_classes=5)
    settings.model.update(num_segments=3, **options)
    network = create_model(**settings.model)
    rng = np.random.default_rng(0)
    for path, variable in variables(network).items():
        if path.endswith(("/mean", "/var", "/scale", "/bias")):
            drawn = rng.uniform(0.5, 1.5, variable.shape).astype(np.float32)
            variable.set_value(jax.numpy.asarray(drawn))
    about = {"config": settings.to_dict(), "class_names": list("abcde"), "lists": {"val": "1234"}}
    checkpoint.save_model(folder, network, about)
    return network, settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    return folder, *saved(folder, backbone="mobileone_tiny")


def logits(model):
    clips = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    return np.asarray(nnx.jit(lambda model, clips: model(clips))(model, clips))


def assert_fused(model, original):
    assert any("/branch_reparam/" in path for path in variables(model))
    assert not any("/branch_conv_list/" in path for path in variables(model))
    found, expected = logits(model), logits(original)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_a_trained_checkpoint_becomes_one_in_deploy_form(trained, tmp_path, capsys):
    folder, original, _ = trained
    assert cli.main(["reparameterize", str(folder), f"--to={tmp_path}/fused"]) == 0
    assert str(tmp_path / "fused") in capsys.readouterr().out
    opened = checkpoint.open_checkpoint(tmp_path / "fused")
    model, about = opened.load(), opened.info
    assert_fused(model, original)
    assert about["config"]["model"]["deploy"] is True
    assert about["class_names"] == list("abcde") and about["lists"] == {"val": "1234"}
    assert about["reparameterized_from"]["checkpoint"] == str(folder)
    # Once more, there is nothing to do.
    assert cli.main(["reparameterize", f"{tmp_path}/fused", f"--to={tmp_path}/twice"]) == 2
    assert "deploy=True" in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


@pytest.mark.thorough
def test_the_calibration_stays(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "trained")
    scores = Scores(np.eye(5, dtype=np.float32), np.arange(5), [], list("abcde"))
    fitted = calibration.fit(scores, split="val", list_sha256="")
    calibration_file.write(folder, fitted)
    assert cli.main(["reparameterize", str(folder), f"--to={tmp_path}/fused"]) == 0
    assert checkpoint.open_checkpoint(tmp_path / "fused").calibration() == fitted


@pytest.mark.thorough
def test_a_checkpoint_is_fused_as_it_is_read(trained):
    folder, original, _ = trained
    opened = checkpoint.open_checkpoint(folder)
    model, about = opened.load(deploy=True), opened.info
    assert_fused(model, original)
    wanted = from_dict(about["config"])
    wanted.model.deploy = True
    checks.check_model(wanted, about["config"], folder)  # as an evaluation does
    model = checkpoint.open_checkpoint(folder).load(**wanted.model)
    assert_fused(model, original)


@pytest.mark.thorough
def test_fused_branches_do_not_come_apart(trained, tmp_path):
    folder, _, settings = trained
    assert cli.main(["reparameterize", str(folder), f"--to={tmp_path}/fused"]) == 0
    about = checkpoint.open_checkpoint(tmp_path / "fused").info
    with pytest.raises(UserError, match=r"model\.deploy: True in the checkpoint, None"):
        checks.check_model(settings, about["config"], "fused")
    with pytest.raises(UserError, match=r"another model, .* problems"):
        checkpoint.open_checkpoint(tmp_path / "fused").load(deploy=False)


def test_networks_without_branches_are_refused(tmp_path, capsys):
    saved(tmp_path / "resnet", "tsn_resnet10", width=2)
    assert cli.main(["reparameterize", f"{tmp_path}/resnet", f"--to={tmp_path}/fused"]) == 2
    assert "no MobileOne block" in capsys.readouterr().err
    assert not (tmp_path / "fused").exists()
    with pytest.raises(UserError, match="no MobileOne block"):
        checkpoint.open_checkpoint(tmp_path / "resnet").load(deploy=True)


def test_nothing_is_overwritten(trained, tmp_path, capsys):
    folder, *_ = trained
    (tmp_path / "there").mkdir()
    assert cli.main(["reparameterize", str(folder), f"--to={tmp_path}/there"]) == 2
    assert "exists" in capsys.readouterr().err
    assert cli.main(["reparameterize", f"{tmp_path}/none", f"--to={tmp_path}/new"]) == 2


def test_states_are_the_same_as_those_built_in_deploy_form(trained):
    folder, _, settings = trained
    fused = checkpoint.open_checkpoint(folder).load(deploy=True)
    built = nnx.eval_shape(lambda: create_model(**dict(settings.model) | {"deploy": True}))
    assert {p: v.shape for p, v in variables(fused).items()} == {
        p: v.shape for p, v in variables(built).items()
    }
