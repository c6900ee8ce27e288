"""`trn-jax explain`, its order card, and `trn-jax predict --explain`."""

import json
import shutil

import numpy as np
import pytest
from small_models import NAMES, config_of, store, write_films

from trn_jax.cli import main
from trn_jax.data.motions import CLASS_NAMES
from trn_jax.data.synthetic import SyntheticSpec, write
from trn_jax.reporting.order_card import read_order_card


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set of 16 clips, and checkpoints of a TRN and a TSN for it."""
    root = tmp_path_factory.mktemp("place")
    write(root / "data", SyntheticSpec(num_train=16, num_val=16, num_segments=4, height=32))
    for name in ("trn", "tsn"):
        config = config_of(f"{name}_resnet10", num_classes=16)
        config.data_dir = str(root / "data")
        store(root / name, config, class_names=list(CLASS_NAMES))
    return root


def run(capsys, *arguments):
    status = main([str(each) for each in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.fixture(scope="module")
def clip(models, film):
    """The checkpoint of a TRN, and a video."""
    return models("trn_resnet10").info.path, film


@pytest.mark.smoke
def test_explain_writes_a_page_and_prints_numbers(capsys, clip, tmp_path):
    path, film = clip
    page, broken = tmp_path / "page.html", tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    flags = (f"--checkpoint={path}", f"--to={page}", "--classes", "turning")
    status, out, err = run(capsys, "explain", broken, film, *flags)
    assert status == 1 and "turning" in out and "order score" in out and "(exact)" in out
    assert "broken.mp4" in err and "broken.mp4" not in out and str(page) in err
    text = page.read_text()
    assert text.count("<img") == 4 + 4 + 2 + 3 + 4 and "broken.mp4" in text


@pytest.mark.thorough
def test_explain_prints_json(capsys, clip):
    path, film = clip
    status, out, _ = run(capsys, "explain", film, f"--checkpoint={path}", "--json", "--shuffles=3")
    found = json.loads(out)
    assert status == 0 and found["video"] == film and found["label"] in NAMES


@pytest.mark.thorough
def test_no_page_without_a_readable_video(capsys, clip, tmp_path):
    page, broken = tmp_path / "page.html", tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    flags = (f"--checkpoint={clip[0]}", f"--to={page}")
    status, _, err = run(capsys, "explain", broken, *flags)
    assert status == 1 and err.count("\n") < 8 and not page.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FILM", "--classes", "turnin"], "'turnin'; did you mean 'turning'?"),
        (["FILM", "--classes", "qqq"], f"'qqq'; the classes are {NAMES[0]!r}, {NAMES[1]!r}"),
        (["FILM", "--to=page.png"], "--to=page.png"),
        (["FILM", "--to="], "--to="),
        (["FILM", "--classes", "4"], "class 4"),
        (["FILM", "--split=test"], "--split"),
        (["FILM", "--num-videos=3"], "--num-videos"),
        (["FILM", "--dataset"], "SOURCE"),
        (["--dataset", "--orders=8"], "--orders"),
        (["--dataset", "--protocol=x"], "protocol"),
        ([], "needs videos"),
        (["FILM", "--orders=7"], "num_orders=7"),
        (["FILM", "--stage=7"], "stage=7"),
        (["missing.mp4"], "missing.mp4"),
    ],
)
def test_wrong_flags(capsys, clip, arguments, message):
    path, film = clip
    # As the last one, `--dataset` would take a source for its folder.
    flags = [film if each == "FILM" else each for each in arguments]
    status, out, err = run(capsys, "explain", *flags, f"--checkpoint={path}")
    last = err.splitlines()[-1]
    assert status == 2 and last.startswith("error:") and message in last and not out


def test_order_card(capsys, place):
    page = place / "order.html"
    flags = (f"--checkpoint={place / 'trn'}", f"--to={page}", "--shuffles=3")
    status, out, err = run(capsys, "explain", "--dataset", *flags)
    file = place / "trn" / "results" / "order.json"
    assert status == 0 and "all videos" in out and "order score" in out and str(file) in err
    card = read_order_card(file)
    assert card.classes == list(CLASS_NAMES) and card.num_videos == [1] * 16
    assert card.chance == 1 / 16
    assert card.checkpoint.endswith("trn") and card.step is not None
    found = json.loads(file.read_text())
    assert found["order_score"] == card.mean("forward") - card.mean("reversed")
    assert found["list_sha256"] and found["split"] == "val"
    assert "Does this data set need time?" in page.read_text()


@pytest.mark.thorough
def test_accuracy_in_order_is_that_of_predictions(capsys, place):
    flags = (f"--workdir={place / 'predicted'}", "--shuffles=1", "--json")
    _, out, _ = run(capsys, "explain", "--dataset", f"--checkpoint={place / 'trn'}", *flags)
    predicted = accuracy_of_predictions(capsys, place, "trn")
    assert json.loads(out)["mean_forward"] == pytest.approx(predicted)


def accuracy_of_predictions(capsys, place, model):
    """Of `trn-jax predict`, with the labels of the list."""
    source = place / "data" / "val_list.txt"
    _, out, _ = run(capsys, "predict", source, f"--checkpoint={place / model}", "--json")
    best = [json.loads(line)["top"][0]["label"] for line in out.splitlines()]
    labels = [int(line.split()[2]) for line in source.read_text().splitlines()]
    return np.mean([a == CLASS_NAMES[b] for a, b in zip(best, labels, strict=True)])


def test_a_model_that_averages_frames_needs_no_order(capsys, place):
    flags = (f"--checkpoint={place / 'tsn'}", "--num-videos=5", "--json", "--shuffles=2")
    status, out, _ = run(
        capsys, "explain", f"--dataset={place / 'data'}", f"--workdir={place / 'work'}", *flags
    )
    found = json.loads(out)
    assert status == 0 and found["order_score"] == 0 and sum(found["num_videos"]) == 5
    assert found["forward"] == found["shuffled"] == found["reversed"]
    assert (place / "work" / "results" / "order.json").exists()


@pytest.mark.thorough
def test_unreadable_videos_of_a_data_set_do_not_count(capsys, place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    first = (data / "val_list.txt").read_text().split()[0]
    shutil.rmtree(data / "rawframes" / first)
    flags = (f"--checkpoint={place / 'tsn'}", f"--workdir={tmp_path}", "--json", "--shuffles=1")
    status, out, err = run(capsys, "explain", f"--dataset={data}", *flags)
    found = json.loads(out)
    assert status == 1 and found["num_unreadable"] == 1 and f"/{first}" in err
    assert sum(found["num_videos"]) == 15 and found["forward"].count(None) == 1


# `trn-jax predict --explain`


def test_predict_adds_the_deciding_frames(capsys, clip, tmp_path):
    path, film = clip
    arguments = ("predict", film, f"--checkpoint={path}", "--explain", f"--to={tmp_path}")
    status, out, _ = run(capsys, *arguments, "--json")
    found = json.loads(out)["explanation"]
    assert status == 0 and [each["frame"] for each in found["frames"]] == [2, 7, 12, 17]
    assert found["frames"][1]["time"] == 0.28
    (picture,) = (tmp_path / "frames").glob("*.png")
    assert found["picture"] == str(picture) and picture.read_bytes()[:4] == b"\x89PNG"
    picture.unlink()  # what is there is not computed again
    status, out, _ = run(capsys, *arguments, "--json")
    assert json.loads(out)["explanation"] == found and not picture.exists()
    status, out, _ = run(capsys, *arguments)
    assert status == 0 and "decided by" in out.splitlines()[-1]
    (numbers,) = (tmp_path / "frames").glob("*.json")
    numbers.write_text("{}")
    status, _, err = run(capsys, *arguments)
    assert status == 2 and str(numbers) in err


@pytest.mark.parametrize("flag", ["--timeline", "--stream"])
def test_timelines_are_not_explained(capsys, clip, flag):
    path, film = clip
    status, _, err = run(capsys, "predict", film, f"--checkpoint={path}", "--explain", flag)
    assert status == 2 and "--explain" in err


@pytest.mark.thorough
def test_long_videos_are_not_explained_but_named(capsys, clip, tmp_path):
    (film,) = write_films(tmp_path, [70])
    status, out, err = run(capsys, "predict", film, f"--checkpoint={clip[0]}", "--explain")
    assert status == 0 and "--whole" in err and "decided by" not in out
    status, out, err = run(
        capsys, "predict", film, f"--checkpoint={clip[0]}", "--explain", "--whole"
    )
    assert status == 0 and "decided by" in out
    status, out, err = run(capsys, "explain", film, f"--checkpoint={clip[0]}")
    assert status == 0 and "2.8 s" in err
