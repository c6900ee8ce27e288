"""The recipe and flags that are printed for videos of one's own."""

import shlex

import pytest
from custom_videos import prepared, write_frames, write_video

from trn_jax import build, checks, cli, config
from trn_jax.errors import UserError
from trn_jax.prepare import custom, training_command
from trn_jax.prepare.training_command import own_recipe
from trn_jax.recipe_flags import read_config
from trn_jax.settings import resolved_views


@pytest.fixture
def videos(tmp_path):
    """Six videos of 0.4 to 0.9 seconds, of two classes."""
    for number in range(6):
        write_video(tmp_path / "mine" / "ab"[number % 2] / f"{number}.mp4", 4 + number)
    return tmp_path / "mine"


def printed(summary):
    """The words of the printed command after `trn-jax train`."""
    (command,) = (line for line in summary.splitlines() if "trn-jax train" in line)
    return shlex.split(command)[2:]


def read(words):
    """The configuration of a printed command."""
    recipe, *flags = words
    return read_config([f"--config={recipe}", *(w for w in flags if w.startswith("--config."))])


def test_the_numbers_are_those_of_the_recipe():
    small = config.recipe("small").get_config()
    assert small.train.batch == training_command.SMALL_BATCH
    assert small.train.epochs == training_command.SMALL_EPOCHS
    assert small.model.num_segments == training_command.SMALL_SEGMENTS


@pytest.mark.parametrize("num_train", [1, 5, 47, 239, 240, 10_000])
def test_few_videos_get_enough_steps(num_train):
    recipe, flags = own_recipe(num_train)
    found = read([recipe, *flags])
    found.model.num_classes = 2
    parts = build.parts(found, steps_per_epoch=num_train / found.train.batch)
    assert recipe == "small" and bool(flags) == (num_train < 240)
    assert parts.num_steps >= 300 and 10 <= parts.num_steps / parts.eval_steps <= 25


def test_long_videos_get_more_frames():
    assert own_recipe(1000, seconds=8.0)[1] == own_recipe(1000)[1] == []
    (flag,) = own_recipe(1000, seconds=8.1)[1]
    assert read(["small", flag]).model.num_segments == 16


def test_small_is_for_those_without_weights(videos, tmp_path):
    summary = prepared(videos, tmp_path / "to")
    recipe, *flags = printed(summary)
    assert recipe == "small" and "finetune" in summary and "--config.init_from=" in summary
    assert flags[:2] == [f"--config.data_dir={tmp_path}/to", "--workdir=runs/to"]
    found = read([recipe, *flags])
    checks.check(found)
    assert found.init_from is None and found.train.epochs >= 1200


def test_finetune_is_for_those_with_weights(videos, tmp_path, capsys):
    weights = tmp_path / "some weights.pth"
    flag = f"--init-from={weights}"
    assert cli.main(["prepare", str(videos), f"--to={tmp_path}/to", flag]) == 2
    assert flag in capsys.readouterr().err and not (tmp_path / "to" / "train_list.txt").exists()
    weights.write_bytes(b"")
    assert cli.main(["prepare", str(videos), f"--to={tmp_path}/to", flag]) == 0
    recipe, *flags = printed(capsys.readouterr().out)
    assert (recipe, flags[2:]) == ("finetune", [f"--config.init_from={weights}"])


@pytest.mark.parametrize("init_from", ["", "runs/a@best"])
def test_several_labels_keep_to_what_they_allow(tmp_path, monkeypatch, init_from):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    lines = ["video,label"]
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", 4 + number)
        lines.append(f"{number}.mp4,{'run;jump' if number % 2 else 'run'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    options = dict(multi_label=True, init_from=init_from)
    found = read(printed(prepared(tmp_path / "table.csv", tmp_path / "to", **options)))
    assert found.data.multi_label and found.init_from == (init_from or None)
    checks.check(found)  # label smoothing is for one label per video


def test_a_head_alone_is_for_those_with_weights(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def commands(init_from):
        (line,) = (
            line
            for line in prepared(videos, tmp_path / "my own", init_from=init_from).splitlines()
            if "trn-jax probe" in line
        )
        words = shlex.split(line[line.index("trn-jax") :])
        cut = len(words) - words[::-1].index("trn-jax")
        return words[: cut - 1], words[cut:]

    to = str(tmp_path / "my own")
    probe = ["probe", to, "--checkpoint=a run@best", "--workdir=runs/my own_probe"]
    (tmp_path / "a run").mkdir()
    assert commands("a run@best") == ([], probe)
    probe[2] = "--checkpoint=hf:user/model"
    assert commands("hf:user/model") == ([], probe)
    (tmp_path / "r50.pth").write_bytes(b"")
    convert, probe = commands("r50.pth")
    assert convert[:3] == ["trn-jax", "convert", "--from=r50.pth"] and convert[-1] == "&&"
    assert f"--checkpoint={convert[-2].removeprefix('--to=')}" in probe


def test_weights_that_are_not_there(videos, tmp_path):
    for name in ("nowhere.pth", "runs/none@best", "@"):
        with pytest.raises(UserError, match=f"--init-from={name}"):
            custom.prepare_custom(str(videos), str(tmp_path / "to"), init_from=name)


def test_seconds_come_from_the_rate(tmp_path):
    for number in range(4):  # at 10 frames per second
        write_video(tmp_path / "long" / "ab"[number % 2] / f"{number}.mp4", 85)
        write_frames(tmp_path / "frames" / "ab"[number % 2] / str(number), 85)
    flag = "--config.model.num_segments=16"
    assert flag in printed(prepared(tmp_path / "long", tmp_path / "to"))
    assert flag not in printed(prepared(tmp_path / "frames", tmp_path / "to2"))


def test_small_reads_clips_of_its_size():
    views = resolved_views(config.recipe("small").get_config())
    sizes = {
        name: (v["num_segments"], v["short_side"], v["crop_size"]) for name, v in views.items()
    }
    assert sizes.pop("protocols.accurate") == (8, 64, 64)
    assert set(sizes.values()) == {(8, 73, 64)}
