"""`trn-jax show`: the clips that the network receives."""

import json
import runpy
import shutil

import av
import cv2
import numpy as np
import pytest
from tiny_training import tiny_training

from trn_jax import cli
from trn_jax.config import view
from trn_jax.data.views import View
from trn_jax.evaluation import show
from trn_jax.recipe_data import Data
from trn_jax.settings import resolved_views

NAMES = ("Swiping left", "Swiping right", "Nodding", "開く")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A recipe with flips and its data set: 24 training and 4 validation videos of 3 frames."""
    folder = tmp_path_factory.mktemp("show")
    tiny_training(folder)
    (folder / "data" / "label_map.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return folder


def config_of(tree, **changes):
    config = runpy.run_path(str(tree / "recipe.py"))["get_config"]()
    config.data_dir = str(tree / "data")
    config.data.update(changes)
    return config


@pytest.mark.smoke
@pytest.mark.parametrize("changes", [{}, dict(balanced=True), dict(fast_decode=True)])
def test_clips_of_a_training_are_those_of_its_first_batches(tree, changes):
    config = config_of(tree, **changes)
    config.seed = 3
    sheet, problems = show.show(config, "unused", num_clips=12)
    batches = Data(config, "unused").train_batches(0)
    first, second = next(batches), next(batches)
    batches.close()
    assert len(first["clip"]) == 8 and len(sheet.rows) == 12 and problems == []
    clips, labels = (np.concatenate([first[k], second[k]])[:12] for k in ("clip", "label"))
    np.testing.assert_array_equal([row.pixels for row in sheet.rows], clips)
    np.testing.assert_array_equal([row.labels for row in sheet.rows], labels[:, None])
    drawn = [*first["clips"], *second["clips"]]
    for row, clip in zip(sheet.rows, drawn, strict=False):
        assert (row.mirrored, row.frames, row.times) == (clip.flip, clip.frames, None)
        before = clip.example % 4  # see tiny_training
        assert row.video == f"train{clip.example}"
        if row.mirrored and before < 2:
            assert (row.labels, row.labels_before) == ([1 - before], [before])
        else:
            assert (row.labels, row.labels_before) == ([before], [])
    assert 0 < sum(row.mirrored for row in sheet.rows) < 12
    assert any(row.labels_before for row in sheet.rows)


def test_the_seed_draws_others(tree):
    found = []
    for seed in (1, 2):
        config = config_of(tree)
        config.seed = seed
        found.append([row.video for row in show.show(config, "unused")[0].rows])
    assert found[0] != found[1]


@pytest.mark.parametrize("split", ["val", "train"])
@pytest.mark.parametrize("name", ["data.val", "protocols.accurate", "protocols.ten"])
def test_clips_of_an_evaluation_are_those_that_it_reads(tree, name, split):
    config = config_of(tree)
    frames = dict(num_segments=3, short_side=36, crop_size=32)
    config.protocols.ten = view(**frames, crop="ten")
    views = {name: View(**resolved_views(config)[name])}
    num_views = views[name].num_views
    sheet, problems = show.show(config, "unused", view=name, split=split, num_clips=15)
    data = Data(config, "unused", split)
    expected = {}
    for video in data.eval_videos(views):
        for clip, pixels in video.pairs():
            for _, position, mirrored in clip.places:
                shown = np.flip(pixels, 2) if mirrored else pixels
                expected[data.val_names[video.example], position] = shown, mirrored, clip
    data.close()
    most = min(15, num_views * len(data.val_records))
    assert (problems, len(sheet.rows)) == ([], most)
    for number, row in enumerate(sheet.rows):
        position = number % num_views
        pixels, mirrored, clip = expected[row.video, position]
        np.testing.assert_array_equal(row.pixels, pixels)
        assert (row.mirrored, row.frames, row.labels_before) == (mirrored, clip.frames, ())
        assert row.part == (f"view {position + 1} of {num_views}" if num_views > 1 else "")
    if name == "protocols.ten":
        assert any(row.mirrored for row in sheet.rows)
    if name == "data.val" and split == "train":  # from all parts of the list
        examples = [int(row.video.removeprefix("train")) for row in sheet.rows]
        assert examples == sorted(set(examples)) and examples[0] < 3 and examples[-1] > 20


def test_frames_of_video_files_have_times(tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    rng = np.random.default_rng(0)
    for name in "ab":
        with av.open(f"{tmp_path}/videos/{name}.mp4", "w") as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for _ in range(9):
                pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    for name in ("train_list", "val_list"):
        (tmp_path / f"{name}.txt").write_text("a.mp4 0\nb.mp4 1\n")
    (tmp_path / "label_map.txt").write_text("a\nb\n")
    flags = ["--config.size=32", "--config.model.num_segments=3", "--json"]
    for view_name in ("data.train", "data.val"):
        to = [f"--to={tmp_path}/clips.png", f"--view={view_name}"]
        assert cli.main(["show", str(tmp_path), *to, *flags]) == 0
        clips = json.loads(capsys.readouterr().out)["clips"]
        assert {clip["video"] for clip in clips} == {"a.mp4", "b.mp4"}
        for clip in clips:
            np.testing.assert_allclose(clip["times"], np.array(clip["frames"]) / 5, atol=1e-3)


def command(tree, tmp_path, *flags, to="clips.png"):
    data = f"--config.data_dir={tree}/data"
    return cli.main(["show", f"{tree}/recipe.py", data, f"--to={tmp_path}/{to}", *flags])


def test_a_recipe_is_shown(tree, tmp_path, capsys):
    assert command(tree, tmp_path, "--num-clips=3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and len(found["clips"]) == 3
    assert {name for clip in found["clips"] for name in clip["labels"]} <= set(NAMES)
    image = cv2.imread(found["file"])
    assert image.shape[0] > 3 * 64
    assert command(tree, tmp_path, "--num-clips=3", to="clips.html") == 0
    assert f"{tmp_path}/clips.html" in capsys.readouterr().out
    assert (tmp_path / "clips.html").read_text().count("<section>") == 3


def test_a_folder_is_shown_as_finetune_would_train_on_it(tree, tmp_path, capsys):
    flags = ["--config.size=32", "--config.model.num_segments=2", "--seed=5", "--json"]
    to = f"--to={tmp_path}/clips.png"
    assert cli.main(["show", f"{tree}/data", to, "--num-clips=2", *flags]) == 0
    clips = json.loads(capsys.readouterr().out)["clips"]
    assert [len(clip["frames"]) for clip in clips] == [2, 2]


def test_a_public_data_set_is_found_by_its_lists(tree, tmp_path, capsys):
    data = shutil.copytree(tree / "data", tmp_path / "data")
    (data / "train_list.txt").rename(data / "sthv1_train_list_rawframes.txt")
    (data / "val_list.txt").rename(data / "sthv1_val_list_rawframes.txt")
    flags = ["--config.size=32", "--view=data.val", f"--to={tmp_path}/clips.png"]
    assert cli.main(["show", str(data), *flags]) == 0
    assert f"data {data}, list val" in capsys.readouterr().out


def test_unreadable_videos_are_named_and_replaced_as_in_training(tree, tmp_path, capsys):
    data = shutil.copytree(tree / "data", tmp_path / "data")
    copied = tmp_path
    (copied / "recipe.py").write_text((tree / "recipe.py").read_text())
    shutil.rmtree(data / "rawframes" / "train7")
    assert command(copied, tmp_path, "--num-clips=24", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    (problem,) = found["problems"]
    assert "train7" in problem
    assert [clip["video"] for clip in found["clips"]].count("train8") == 2
    shutil.rmtree(data / "rawframes" / "val1")
    assert command(copied, tmp_path, "--view=data.val", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["clips"]) == 3 and "val1" in found["problems"][0]


@pytest.mark.parametrize(
    ("flags", "mentioned"),
    [
        (["--to=clips.gif"], "clips.gif"),
        (["--num-clips=201"], "--num-clips=201"),
        (["--view=protocols.eficient"], "did you mean 'protocols.efficient'"),
        (["--view=data.train", "--split=val"], "--split=val"),
        (["--split=test"], "--split=test"),
        (["--seed=-1"], "seed=-1"),
        (["--config.data.train.crop=center"], "flip_rate=0.5"),
        (["--to=none/such/clips.png"], "none/such/clips.png"),
    ],
)
def test_wrong_flags_are_explained(tree, tmp_path, capsys, flags, mentioned):
    assert command(tree, tmp_path, *flags) == 2
    assert mentioned in capsys.readouterr().err
    assert not (tmp_path / "clips.png").exists()


def test_what_is_not_prepared_is_explained(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "table.csv").write_text("video,class\n")
    for name in (".", "table.csv"):
        assert cli.main(["show", str(tmp_path / name)]) == 2
        assert f"trn-jax prepare {tmp_path / name}" in capsys.readouterr().err
    assert cli.main(["show", f"{tmp_path}/none"]) == 2
    assert f"{tmp_path}/none" in capsys.readouterr().err
    assert cli.main(["show"]) == 2
    assert "--config" in capsys.readouterr().err
