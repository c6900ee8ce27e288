"""The commands around training."""

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from state_dicts import RESNET, state_of, weights_of
from torch_files import legacy_file, safetensors_file, whole, zip_file

from trn_jax import checks, cli, config, convert, create_model, main, recipe_flags
from trn_jax.checkpoints import checkpoint
from trn_jax.errors import UserError
from trn_jax.settings import from_dict

OPTIONS = dict(num_classes=5, num_segments=3)


class RunsCode:
    """Creates a folder when a pickle of it is executed."""

    mark = os.path.join(tempfile.gettempdir(), f"trn_jax_executed_{os.getpid()}")

    def __reduce__(self):
        return os.system, (f"mkdir {self.mark}",)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of a TRN with the names of mmaction2."""
    model = nnx.eval_shape(lambda: create_model("trn_resnet10", **OPTIONS))
    path = tmp_path_factory.mktemp("weights") / "trn.safetensors"
    path.write_bytes(safetensors_file(weights_of(model)[1]))
    return path


def test_convert_writes_a_checkpoint_that_describes_itself(file, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    classes.write_text("a\nb\nc\nd\ne\n")
    arguments = ["convert", f"--from={file}", "--model=trn_resnet10", f"--classes={classes}"]
    assert cli.main([*arguments, f"--to={tmp_path}/out"]) == 0
    said = capsys.readouterr().out
    assert "backbone/layer4/0/conv2/kernel  3 x 3 x 512 x 512" in said
    assert "trn_resnet10 with 5 classes" in said

    opened = checkpoint.open_checkpoint(tmp_path / "out")
    found, about = opened.load(), opened.info
    assert about["class_names"] == list("abcde")
    assert about["source"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["config"]["model"]["num_segments"] == 3
    expected = create_model("trn_resnet10", **OPTIONS)
    convert.load_state_dict(expected, load_file(file))
    found, expected = (nnx.as_pure(nnx.state(model)) for model in (found, expected))
    jax.tree.map(np.testing.assert_array_equal, found, expected)

    # A recipe trains such a model in its own way, and can evaluate it.
    wanted = from_dict(about["config"])
    wanted.model.update(partial_bn=True, dropout_rate=0.8, norm_group=16)
    checks.check_model(wanted, about["config"], "out")
    wanted.model.head = "tsn"
    with pytest.raises(UserError, match=r"model\.head: None in the checkpoint, 'tsn'"):
        checks.check_model(wanted, about["config"], "out")

    assert cli.main([*arguments, f"--to={tmp_path}/out"]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["--model=tsn_resnet10"], "multi-scale TRN on ResNet-10"),
        (["--model=trn_resnet10", "--num-classes=7"], "num_classes=5"),
        (["--model=trn_resnet10", "--num-segments=8"], "num_segments=3"),
        (["--model=trn_resnet11"], "unknown model 'trn_resnet11'"),
        (["--model=trn_resnet10", "--from=nowhere.pth"], "nowhere.pth"),
        (["--model=trn_resnet10", f"--from={__file__}"], "test_cli.py"),
        (["--model=trn_resnet10", "--option=colour=red"], "'colour=red' is not an option"),
        (["--model=trn_resnet10", "--option=width"], "'width' is not an option"),
        (["--model=trn_resnet10", "--option=num_classes=4"], "with one of the keys backbone, "),
        (["--model=trn_resnet10", "--option=width=wide"], "'wide', not a value of type int"),
        (["--model=trn_resnet10", "--option=partial_bn=no"], "'no', not true or false"),
        (["--model=trn_resnet10", "--option=mean=1,x,2"], "'1,x,2', not numbers separated by"),
        (["--model=trn_resnet10", "--option=std=1,0,2"], "std=(1.0, 0.0, 2.0) must be"),
        (["--model=trn_resnet10", "--option=causal=true"], "has no option 'causal'"),
        (["--model=tin_resnet10", "--reset-temporal-op"], "8 unexpected"),
        (["--model=trn_resnet10", "--key=ema"], "'ema'"),
        (["--model=trn_resnet10", "--rename=x"], "--rename=x: expected --rename=OLD=NEW"),
        (["--model=trn_resnet10", "--rename=x=y"], "--rename=x=y changes none"),
        (["--model=trn_resnet10", "--ignore=x"], "--ignore=x matches none"),
        (["--model=trn_resnet10", "--verify", "--reset-head"], "--reset-head"),
    ],
)
def test_what_does_not_fit_is_explained(file, tmp_path, capsys, arguments, mentioned):
    assert cli.main(["convert", f"--from={file}", f"--to={tmp_path}/out", *arguments]) == 2
    assert mentioned in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_the_classifier_can_be_drawn_for_other_classes(file, tmp_path, capsys):
    arguments = ["convert", f"--from={file}", "--model=trn_resnet10", f"--to={tmp_path}/out"]
    assert cli.main([*arguments, "--num-classes=7", "--reset-head"]) == 0
    # Weights and biases at two scales of relations among three frames.
    assert re.search(r"4 .*head/relations/0/output/bias", capsys.readouterr().out)
    opened = checkpoint.open_checkpoint(tmp_path / "out")
    found, about = opened.load(), opened.info
    assert about["config"]["model"]["num_classes"] == 7
    assert found.head.relations[1].output.kernel.shape == (256, 7)
    assert float(jax.numpy.abs(found.head.relations[1].output.kernel[...]).max()) > 0
    stored = load_file(file)["cls_head.fc_cls.weight"]
    np.testing.assert_array_equal(found.head.fc.kernel[...], stored.T)


def test_names_are_changed_and_what_is_left_is_printed(file, tmp_path, capsys):
    arrays = {f"trunk/{name}": value for name, value in load_file(file).items()}
    content = safetensors_file(arrays | {"aux.weight": np.ones(3)})
    (tmp_path / "odd.safetensors").write_bytes(content)
    arguments = ["convert", f"--from={tmp_path}/odd.safetensors", "--model=trn_resnet10"]
    arguments += ["--rename=^trunk/=", "--ignore=aux.*", f"--to={tmp_path}/out"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "trunk/backbone.conv1.conv.weight" in said  # by its name in the file
    assert "aux.*" in said.splitlines()[-1]


def test_a_classifier_of_images_becomes_a_head(tmp_path, capsys):
    model = nnx.eval_shape(lambda: create_model("tsn_resnet10", num_classes=6))
    expected, state = state_of(model, (*RESNET, (r"head/fc", "fc")))
    content = safetensors_file({f"_orig_mod.{name}": value for name, value in state.items()})
    (tmp_path / "image.safetensors").write_bytes(content)
    arguments = ["convert", f"--from={tmp_path}/image.safetensors", "--num-segments=1"]
    command = [*arguments, "--model=tsn_resnet10", f"--to={tmp_path}/out"]
    assert cli.main(command) == 2
    assert "--take-classifier" in capsys.readouterr().err
    assert cli.main([*command, "--take-classifier"]) == 0
    opened = checkpoint.open_checkpoint(tmp_path / "out")
    found, about = opened.load(), opened.info
    np.testing.assert_array_equal(found.head.fc.kernel[...], expected["head/fc/kernel"])
    assert about["config"]["model"]["num_classes"] == 6
    trn = [*arguments, "--model=trn_resnet10", f"--to={tmp_path}/trn", "--take-classifier"]
    assert cli.main([*trn, "--num-segments=3"]) == 2
    assert "--take-classifier" in capsys.readouterr().err


@pytest.mark.by_default("3-False")
@pytest.mark.parametrize(("segments", "noted"), [(3, False), (4, True)])
def test_how_a_trn_chooses_its_relations_is_printed(tmp_path, capsys, segments, noted):
    options = dict(OPTIONS, num_segments=segments)
    model = nnx.eval_shape(lambda: create_model("trn_resnet10", **options))
    (tmp_path / "trn.safetensors").write_bytes(safetensors_file(weights_of(model)[1]))
    command = ["convert", f"--from={tmp_path}/trn.safetensors", "--model=trn_resnet10"]
    assert cli.main([*command, f"--to={tmp_path}/out"]) == 0
    said = capsys.readouterr().out
    # Of 4 frames, there are 6 relations of 2, of which 3 are drawn; of 3 frames, all are taken.
    assert ("eval_relations=expected" in said and "3 %" in said) == noted
    if noted:
        wanted = [*command, "--option=eval_relations=sample", f"--to={tmp_path}/sampled"]
        assert cli.main(wanted) == 0
        assert "eval_relations=sample" in capsys.readouterr().out
        model = checkpoint.open_checkpoint(tmp_path / "sampled").load()
        assert model.head.eval_relations == "sample"


def test_options_reach_the_model(tmp_path):
    model = nnx.eval_shape(lambda: create_model("tsn_resnet10", width=8, num_classes=5))
    shifted = {
        name.replace(".conv1.conv.", ".conv1.conv.net.") if ".layer" in name else name: value
        for name, value in weights_of(model, "tsn")[1].items()
    }
    (tmp_path / "tsm.safetensors").write_bytes(safetensors_file(shifted))
    arguments = ["convert", f"--from={tmp_path}/tsm.safetensors", "--model=tsm_resnet10"]
    arguments += ["--option=width=8", "--option=causal=True", f"--to={tmp_path}/out"]
    arguments += ["--option=mean=1,2.5,3"]
    assert cli.main(arguments) == 0
    found = checkpoint.open_checkpoint(tmp_path / "out").load()
    assert found.backbone.layer2[0].temporal_op.causal
    assert found.backbone.conv1.kernel.shape[-1] == 8
    assert found.mean == (1.0, 2.5, 3.0)


@pytest.mark.parametrize(
    ("write", "mentioned"),
    [
        (lambda state: zip_file(state)[:-100], "{size} bytes"),
        (lambda state: legacy_file(state)[:-100], "the file has {size}"),
        (lambda state: zip_file(state | {"hook": RunsCode()}), "system"),
        (lambda state: legacy_file({"x": RunsCode()}), "Nothing was executed"),
    ],
)
def test_files_that_are_broken_or_mean_harm_are_refused(tmp_path, capsys, write, mentioned):
    path = tmp_path / "model.pth"
    content = write({"backbone.conv1.conv.weight": whole(np.ones((4, 3, 7, 7)))})
    path.write_bytes(content)
    arguments = ["convert", f"--from={path}", "--model=tsn_resnet10", f"--to={tmp_path}/out"]
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert f"error: {path}: " in said.err and mentioned.format(size=len(content)) in said.err
    assert not (tmp_path / "out").exists()
    assert not os.path.exists(RunsCode.mark)


def test_models_are_listed_with_their_parameters_and_cost(capsys):
    assert cli.main(["models", "tsm_resnet50"]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert row.split(maxsplit=3) == ["tsm_resnet50", "24,327,632", "32.88", "8 x 224 x 224 x 3"]
    arguments = ["models", "tsm_resnet10", "--num-classes=5", "--frames=2", "--pixels=64"]
    assert cli.main(arguments) == 0
    assert "2 x 64 x 64 x 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["models", "--frames=0"])
    assert "0 is not a positive number" in capsys.readouterr().err
    assert cli.main(["models", "tsm_vgg*"]) == 2
    assert "tsm_vgg*" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("predict --top=0", "--top: 0 "),
        ("predict --num-threads=0", "--num-threads: 0 "),
        ("predict --num-processes=x", "--num-processes: .*'x'"),
        ("predict --crop-size=1.5", "--crop-size: .*'1.5'"),
        ("features a.mp4", "--checkpoint"),
        ("predict --unknown", "--unknown"),
        ("predictt", "'predictt'"),
        ("", "command"),
    ],
)
def test_a_wrong_argument_is_reported_in_one_line(capsys, arguments, expected):
    with pytest.raises(SystemExit) as done:
        cli.main(arguments.split())
    printed = capsys.readouterr()
    assert done.value.code == 2 and not printed.out
    assert re.fullmatch(rf"error: .*{expected}.*; see trn-jax.* --help\n", printed.err)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (UserError("no such class"), 2, "error: no such class\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.txt"),
            2,
            "run the same command again",
        ),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(failure, status, message, capsys):
    def command():
        raise failure

    assert cli.exit_status(command) == status
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_readers_may_leave_before_the_end():
    reader, writer = os.pipe()
    os.close(reader)
    program = "from trn_jax.cli import exit_status; raise SystemExit(exit_status(lambda: print(1)))"
    with os.fdopen(writer, "wb") as output:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=output, stderr=subprocess.PIPE, text=True
        )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_recipes_are_listed_and_copied(tmp_path, capsys):
    assert cli.main(["recipes"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == config.recipe_names()
    assert cli.main(["recipes", "trn_sthv?", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["trn_sthv1"]["published"]["efficient"] == {"top1": 31.62, "top5": 60.01}
    assert cli.main(["recipes", "--copy", "tsn_k400_5seg", f"{tmp_path}/mine.py"]) == 0
    copied = recipe_flags.read_config([f"--config={tmp_path}/mine.py", "--config.optim.lr=0.5"])
    expected = config.recipe("tsn_k400_5seg").get_config()
    assert copied.optim.lr == 0.5
    copied.optim.lr = expected.optim.lr
    assert copied.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recipes", "none"], "no recipe is called 'none'"),
        (["recipes", "--copy", "trn_shtv1", "a.py"], "did you mean 'trn_sthv1'?"),
        (["recipes", "--copy", "trn_sthv1", "a.txt"], "ends in .py"),
        (["recipes", "--copy", "trn_sthv1", __file__], "exists"),
        (["check"], "a recipe is needed"),
        (["check", "trn_sthv1", "--config=trn_sthv2"], "two recipes"),
        (["check", "trn_sthv1", "--config.optim.lern=1"], "has no setting lern"),
        (["check", "trn_sthv1", "--config.optim.warmup_start=1"], "this setting was removed"),
        ("optim.warmup_start = 0.5", "mine.py, line 5: warmup_start: this setting was removed"),
        ("optim.lern = 1", "mine.py, line 5: lern: the recipe has no setting lern"),
        ("size = '224'", "mine.py, line 5: TypeError: Could not override field 'size'"),
        ("size = None", "size=None: expected a value of type int"),
        ("data.val.scales = None", "data.val.scales=None: expected a value of type"),
        ("protocols.mine = dict(crop='ten')", "protocols.mine: expected the keys of"),
        ("protocols = {}", "the recipe defines no protocols"),
        (["check", "trn_sthv1", "--list=x"], "--list needs --videos"),
    ],
)
def test_wrong_recipes_are_explained(arguments, said, tmp_path, capsys):
    if isinstance(arguments, str):  # a line of a recipe
        text = "from trn_jax.config import base\ndef get_config():\n"
        text += "    config = base(dataset='frames', model='tsn_resnet10', num_classes=2)\n\n"
        recipe = tmp_path / "mine.py"
        recipe.write_text(f"{text}    config.{arguments}\n    return config\n")
        arguments = ["check", str(recipe)]
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_backbones_are_listed_with_their_parameters_and_cost(capsys):
    assert cli.main(["models", "--backbones", "re*18"]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert row.split(maxsplit=4) == ["resnet18", "512", "11,176,512", "1.82", "tsm, tin"]
    assert cli.main(["models", "slowonly_resnet14", "--backbones", "--frames=2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["backbones"]
    assert found["channels"] == 2048 and not found["temporal_ops"] and found["gflops"] > 1
    assert cli.main(["models", "--backbones", "vit_*", "--pixels=64", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["backbones"]
    assert "64x64 pixels" in found["problem"] and "gflops" not in found
    assert cli.main(["models", "--backbones", "vgg*"]) == 2
    assert "vgg*" in capsys.readouterr().err


def test_models_as_json(capsys):
    assert cli.main(["models", "tsn_resnet50", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert (found["name"], found["parameters"]) == ("tsn_resnet50", 24_327_632)


def test_train_and_eval_are_those_of_main(monkeypatch):
    given = []
    monkeypatch.setattr(main, "run", given.append)
    cli.main(["train", "trn_sthv1", "--workdir=x", "--config.optim.lr=1", "--profile_steps=1:2"])
    cli.main(["eval", "runs/a@best", "--split=test", "--config.train.batch=3", "--json"])
    assert given == [
        ["trn-jax", "--mode=train", "--config=trn_sthv1", "--workdir=x"]
        + ["--config.optim.lr=1", "--profile_steps=1:2"],
        ["trn-jax", "--mode=eval", "--checkpoint=runs/a@best", "--split=test", "--json"]
        + ["--config.train.batch=3"],
    ]
