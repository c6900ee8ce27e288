"""`trn-jax probe`: a head on cached features, and an ordinary checkpoint of the whole model."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import simplejpeg
from flax import nnx

from trn_jax import cli, create_model, load_model
from trn_jax.checkpoints import checkpoint
from trn_jax.config import base
from trn_jax.data import reader
from trn_jax.evaluation import evaluate
from trn_jax.probing.settings import probe_config

COLORS = dict(red=(200, 40, 40), blue=(40, 40, 200))
CLASSES = ("blue to red", "red to blue")
NUM_TRAIN, NUM_VAL = 12, 6


def config_of(model, **options):
    config = base(dataset="frames", model=model, num_classes=3)
    config.model.update(width=4, num_segments=4, **options)
    config.update(size=16, short_side=20)
    config.data.train.flip_rate = 0.5
    return config


def store(folder, config, *, head=True):
    model = create_model(**config.model, rngs=nnx.Rngs(0))
    stored = config.to_dict()
    if not head:
        model.head, stored["model"]["num_classes"] = None, 0
    about = {"config": stored, "class_names": ["a", "b", "c"] if head else []}
    checkpoint.save_model(str(folder), model, about)
    return folder


def write_video(folder, names, rng, count=8):
    """Frames that change from one colour to the other, with noise."""
    folder.mkdir(parents=True)
    first, last = (np.array(COLORS[name]) for name in names)
    for number in range(count):
        color = first if number < count / 2 else last
        frame = np.clip(color + rng.normal(0, 20, (24, 28, 3)), 0, 255).astype(np.uint8)
        (folder / f"{number + 1:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(frame))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint and a data set of two classes that differ in the order of frames only."""
    root = tmp_path_factory.mktemp("probe")
    rng = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        lines = []
        for number in range(count):
            label = number % 2
            names = CLASSES[label].split(" to ")
            write_video(root / "data" / "rawframes" / f"{split}{number}", names, rng)
            lines.append(f"{split}{number} 8 {label}\n")
        (root / "data" / f"{split}_list.txt").write_text("".join(lines))
    (root / "data" / "label_map.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    store(root / "model", config_of("tsn_resnet10"))
    return root


def run(place, workdir, *flags, checkpoint="model", data="data"):
    command = [str(place / data), f"--checkpoint={place / checkpoint}", f"--workdir={workdir}"]
    flags = ["--config.train.epochs=40", *flags]
    return cli.main(["probe", *command, "--passes=2", *flags])


@pytest.fixture(scope="module")
def probed(place):
    """The working directory of a probe with a TRN head."""
    assert run(place, place / "run") == 0
    return place / "run"


def metrics_of(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["group"] == "val"]


@pytest.mark.thorough
def test_it_learns_the_order_of_frames(probed):
    info = load_model(f"{probed}@best").info
    assert info.metrics["top1"] == 1.0 and info.step <= 40
    assert info.class_names == CLASSES and info.config["model"]["head"] == "trn_multiscale"
    assert info.sampling["num_frames"] == 8


@pytest.mark.thorough
def test_the_backbone_is_that_of_the_checkpoint(place, probed):
    before = checkpoint.open_checkpoint(place / "model").weights()
    after = checkpoint.open_checkpoint(probed).weights()
    kept = [name for name in before if name.startswith("backbone.")]
    assert len(kept) > 30 and {n for n in after if n.startswith("backbone.")} == set(kept)
    for name in kept:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert after["head.relations.0.output.bias"].shape == (2,)


@pytest.mark.thorough
def test_an_evaluation_finds_the_metrics_of_the_probe(probed, tmp_path):
    for which in ("", "@best"):
        info = load_model(f"{probed}{which}").info
        assert evaluate.evaluate(None, f"{probed}{which}", str(tmp_path)) == 0
        found = json.loads((tmp_path / "results" / "efficient.json").read_text())
        assert found["metrics"] == info.metrics


@pytest.mark.thorough
def test_cached_features_are_those_of_the_training_clips(place, probed):
    from trn_jax.recipe_data import Data
    from trn_jax.settings import from_dict

    info = load_model(probed).info
    config = from_dict(info.config)
    data = Data(config, str(probed))
    model = load_model(place / "model")
    features = nnx.jit(lambda model, clips: model.features(clips))
    batch = data.train_reader()([(1, record) for record in data.train_records])
    cached = np.load(probed / "features" / "train-1" / "000000.npy")
    np.testing.assert_array_equal(cached["label"], batch["label"])
    np.testing.assert_allclose(cached["features"], features(model, batch["clip"]), atol=1e-5)
    other = np.load(probed / "features" / "train-0" / "000000.npy")
    assert np.abs(cached["features"] - other["features"]).max() > 1e-3
    assert any(clip.flip for clip in batch["clips"])


@pytest.fixture
def reads(monkeypatch):
    """Counts the videos that are read."""
    counted = []
    original = reader.ClipReader.read

    def read(self, record, *arguments):
        counted.append(record.index)
        return original(self, record, *arguments)

    monkeypatch.setattr(reader.ClipReader, "read", read)
    return counted


@pytest.mark.thorough
def test_features_are_computed_once(place, probed, tmp_path, reads):
    shutil.copytree(probed, tmp_path / "run")
    flags = ["--config.optim.lr=0.007", "--config.train.epochs=4", "--passes=3"]
    assert run(place, tmp_path / "run", *flags) == 0
    assert sorted(reads) == list(range(NUM_TRAIN))  # of the third pass
    assert load_model(tmp_path / "run").info.config["optim"]["lr"] == 0.007
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) <= 2


@pytest.mark.thorough
def test_an_address_on_the_hub_stays_one():
    stored = config_of("tsn_resnet10").to_dict()
    for path in ("hf:user/model@main", "/runs/a"):
        assert probe_config(stored, "tsn", checkpoint=path).init_from == path


def test_an_interrupted_probe_resumes_with_the_same_result(place, probed, tmp_path, reads):
    shutil.copytree(probed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "features" / "train-0" / "000000.npy").unlink()
    assert run(place, tmp_path / "run") == 0
    assert sorted(reads) == list(range(NUM_TRAIN))
    before = checkpoint.open_checkpoint(probed).weights()
    after = checkpoint.open_checkpoint(tmp_path / "run").weights()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tsm_resnet10", "tpn_slowonly_resnet14", "headless"])
def test_other_models(place, tmp_path, kind):
    config = config_of("tsn_resnet10" if kind == "headless" else kind)
    if kind == "tpn_slowonly_resnet14":
        config.model.num_segments = 8
    store(tmp_path / "model", config, head=kind != "headless")
    head = "tsn" if kind.startswith("tpn") else "trn"
    flags = [f"--head={head}", "--config.train.epochs=8"]
    assert run(place, tmp_path / "run", *flags, checkpoint=tmp_path / "model") == 0
    assert evaluate.evaluate(None, str(tmp_path / "run"), str(tmp_path / "eval")) == 0
    found = json.loads((tmp_path / "eval" / "results" / "efficient.json").read_text())
    assert found["metrics"] == load_model(tmp_path / "run").info.metrics


@pytest.mark.thorough
def test_a_mean_of_frames_cannot_learn_their_order(place, probed, tmp_path):
    shutil.copytree(probed / "features", tmp_path / "run" / "features")
    assert run(place, tmp_path / "run", "--head=tsn", "--config.train.epochs=20") == 0
    info = load_model(tmp_path / "run").info
    assert info.config["model"]["head"] == "tsn" and info.metrics["top1"] <= 0.85


@pytest.mark.slow
def test_unreadable_videos_are_named_and_cost_only_themselves(place, tmp_path, capsys):
    shutil.copytree(place / "data", tmp_path / "data")
    for name in ("train3", "val2"):
        (tmp_path / "data" / "rawframes" / name / "00004.jpg").write_bytes(b"\xff\xd8 no picture")
        (tmp_path / "data" / "rawframes" / name / "00003.jpg").write_bytes(b"\xff\xd8 no picture")
    for _ in range(2):
        flags = ["--config.train.epochs=4", "--json"]
        assert run(place, tmp_path / "run", *flags, data=tmp_path / "data") == 1
        printed = capsys.readouterr()
        assert "val2" in printed.err and "train3" in printed.err
        assert len(json.loads(printed.out)["messages"]) >= 2
    # What can't be read counts as wrong, as in an evaluation.
    assert evaluate.evaluate(None, str(tmp_path / "run"), str(tmp_path / "eval")) == 1
    found = json.loads((tmp_path / "eval" / "results" / "efficient.json").read_text())
    assert found["metrics"] == load_model(tmp_path / "run").info.metrics


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--config.optim.rate=1"], "rate"),
        (["--config.data.train.num_segments=3"], "num_segments=3"),
        (["--config.optim.lr=1e30", "--config.optim.clip_norm=0"], "optim.lr"),
        (["--config.seed=1"], "seed"),
    ],
)
def test_wrong_settings(place, probed, tmp_path, capsys, flags, match):
    shutil.copytree(probed, tmp_path / "run")
    assert run(place, tmp_path / "run", *flags) == 2
    message = capsys.readouterr().err
    assert match in message and "Traceback" not in message
    assert load_model(tmp_path / "run").info.metrics  # nothing is lost


@pytest.mark.thorough
def test_wrong_places(place, probed, tmp_path, capsys):
    def message(*flags, **named):
        assert run(place, tmp_path / "run", *flags, **named) == 2
        return capsys.readouterr().err

    assert "no checkpoint" in message(checkpoint="data")
    assert "gone" in message(data=tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "prepare" in message(data=tmp_path / "empty")
    store(tmp_path / "tsm", config_of("tsm_resnet10"))
    text = message("--config.model.num_segments=3", checkpoint=tmp_path / "tsm")
    assert "num_segments=3" in text and "4 frames" in text
    # The working directory of a training, and of a probe of another model.
    about = {"config": config_of("tsn_resnet10").to_dict(), "class_names": ["a"]}
    model = create_model(**config_of("tsn_resnet10").model)
    checkpoint.save_model(str(tmp_path / "run" / "checkpoints" / "5"), model, about)
    assert "training" in message() and pathlib.Path(tmp_path / "run" / "checkpoints" / "5").exists()
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(probed, tmp_path / "run")
    assert "checkpoint" in message(checkpoint=tmp_path / "tsm")
    assert load_model(tmp_path / "run").info.metrics == load_model(probed).info.metrics


@pytest.mark.thorough
def test_features_that_are_not_finite(place, tmp_path, capsys):
    model = load_model(place / "model")
    kernel = model.backbone.conv1.kernel
    kernel[...] = jax.numpy.full(kernel.shape, jax.numpy.inf)
    about = {"config": model.info.config, "class_names": ["a", "b", "c"]}
    checkpoint.save_model(str(tmp_path / "model"), model, about)
    assert run(place, tmp_path / "run", checkpoint=tmp_path / "model") == 2
    assert "not finite" in capsys.readouterr().err


@pytest.mark.slow
def test_data_and_views_of_a_recipe(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from trn_jax.config import base\n"
        "def get_config():\n"
        "    config = base(dataset='frames', model='tsn_resnet18')\n"
        "    config.update(size=20, short_side=20)\n"
        "    config.model.num_segments = 3\n"
        "    config.train.epochs = 1.0\n"
        "    return config\n"
    )
    command = ["probe", "mine.py", f"--checkpoint={place / 'model'}", "--workdir=run", "--passes=1"]
    assert cli.main([*command, f"--config.data_dir={place / 'data'}", "--head=tsn"]) == 0
    config = load_model("run").info.config
    assert config["model"]["name"] == "tsn_resnet10" and config["model"]["num_segments"] == 3
    assert config["size"] == 20 and config["train"]["epochs"] == 1.0
    assert cli.main(["probe", "mine", f"--checkpoint={place / 'model'}", "--workdir=run"]) == 2
