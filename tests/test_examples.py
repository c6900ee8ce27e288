"""The programs in `examples/` run as they stand."""

import os
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "examples"


def run(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_video(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), color, np.uint8), format="rgb24")
        for _ in range(12):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_all_are_short_and_run_here():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    parts = {"own_backbone", "own_dataset", "own_head", "own_loop"}
    assert names == parts | {"features", "motion_videos", "phone_videos", "run_onnx"}
    for path in EXAMPLES.glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        most = {"run_onnx": 40, "phone_videos": 50}.get(path.stem, 25)
        assert len(lines) <= most, path.name


@pytest.mark.thorough
def test_a_loop_of_ones_own_learns(tmp_path):
    losses = [float(line.split()[-1]) for line in run("own_loop", cwd=tmp_path).splitlines()]
    assert len(losses) == 20 and np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.slow
def test_a_head_of_ones_own(tmp_path):
    assert "logits [[" in run("own_head", cwd=tmp_path)


@pytest.mark.thorough
def test_a_backbone_of_ones_own(tmp_path):
    assert "features (2, 4, 32) logits (2, 5)" in run("own_backbone", cwd=tmp_path)


def test_own_videos_become_batches(tmp_path):
    for label in ("dark", "bright"):
        for number in range(4):
            color = 200 * (label == "bright") + number
            write_video(tmp_path / "videos" / label / f"{number}.mp4", color)
    said = run("own_dataset", "videos", "data", cwd=tmp_path)
    assert "batch 2: clips (4, 8, 64, 64, 3), labels [" in said


@pytest.mark.slow
def test_motion_videos(tmp_path):
    run("motion_videos", cwd=tmp_path)
    for label in ("Something appearing", "Something disappearing", "nothing"):
        paths = sorted((tmp_path / "myvideos" / label).iterdir())
        assert len(paths) == (160 if label == "nothing" else 80)
        with av.open(str(paths[0])) as container:
            assert sum(1 for _ in container.decode(video=0)) == 24
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6 * 72


@pytest.mark.slow
def test_phone_videos(tmp_path):
    from trn_jax.data import videos

    run("phone_videos", cwd=tmp_path)
    folder = tmp_path / "phone" / "Moving something up"
    paths = sorted(folder.iterdir())
    assert len(paths) == 80 and {path.suffix for path in paths} == {".MOV", ".mp4"}
    turned = []
    for path in paths:
        if path.stat().st_size <= 2000:
            continue  # the damaged one
        with av.open(str(path)) as container:
            assert container.streams.audio and container.streams.video[0].frames == 24
            stored = next(container.decode(video=0))
            turned.append(stored.rotation != 0)
            pixels = stored.to_ndarray(format="rgb24")
        with videos.VideoFile(str(path)) as video:
            upright = video.read([0])[0].astype(int)
        assert np.abs(upright - np.rot90(pixels, -turned[-1])).mean() < 3
    assert len(turned) == 79 and 15 <= sum(turned) <= 25
    table = (tmp_path / "films" / "monday.csv").read_text().splitlines()
    assert len(table) == 31 and (tmp_path / "films" / "tuesday.mp4").exists()


@pytest.mark.slow
def test_features_of_a_video(tmp_path):
    write_video(tmp_path / "a.mp4", 100)
    assert "a.mp4: features (8, 2048), float32" in run("features", "a.mp4", cwd=tmp_path)


PACKAGES = ("av", "numpy", "onnxruntime")  # all that the example needs
BLOCKED = """
import runpy, sys
blocked = ("cv2", "flax", "jax", "jaxlib", "onnx", "trn_jax")
sys.modules.update(dict.fromkeys(blocked))
path, *sys.argv[1:] = sys.argv[1:]
runpy.run_path(path)
"""


def exported(folder, **options):
    """An exported TSM, a video, and what `predict` has for it: `{class: probability}`."""
    import painted
    from export_models import config_of, store

    import trn_jax
    from trn_jax.export.export import export

    multi_label = options.pop("multi_label", False)
    config = config_of()
    config.data.multi_label = multi_label
    checkpoint = store(folder / "checkpoint", config, temperature=0.5)
    film = painted.write(folder / "film.mp4", painted.frames(20, start=3), g=8)
    export(checkpoint, str(folder / "model.onnx"), **options)
    model = trn_jax.load_model(checkpoint)
    (answer,) = trn_jax.predict(str(film), model, **options)
    return str(film), dict(zip(answer.class_names, answer.calibrated, strict=True))


def compare(printed, expected):
    found = {name: float(score) for score, name in (line.split() for line in printed.splitlines())}
    assert list(found) == sorted(expected, key=expected.get, reverse=True)
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("options", [{}, dict(protocol="twice", multi_label=True)])
def test_an_exported_model_answers_like_predict_without_jax(tmp_path, options):
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    film, expected = exported(tmp_path, **options)
    assert max(expected.values()) - min(expected.values()) > 0.1
    arguments = [str(EXAMPLES / "run_onnx.py"), "model.onnx", film]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    compare(done.stdout, expected)


@pytest.mark.slow
def test_an_exported_model_needs_three_packages(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    film, expected = exported(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    arguments = [python, EXAMPLES / "run_onnx.py", tmp_path / "model.onnx", film]
    done = subprocess.run(arguments, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    compare(done.stdout, expected)
