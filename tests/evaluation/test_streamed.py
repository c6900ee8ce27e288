"""Videos evaluated frame by frame: scores against streams fed by hand, and results in files."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx
from small_training import write_frames

from trn_jax import cli, create_model, streaming
from trn_jax import config as configuration
from trn_jax.checkpoints import checkpoint
from trn_jax.data import frame_views
from trn_jax.data.decode import FrameError
from trn_jax.data.reader import ClipReader
from trn_jax.data.views import View
from trn_jax.errors import UserError
from trn_jax.evaluation import evaluate, score_files, streamed
from trn_jax.evaluation.merging import merge_views
from trn_jax.recipe_data import Data

LENGTHS = (2, 40, 13, 25, 7, 31, 18)  # frames of the videos
SMALL = dict(num_segments=3, short_side=32, crop_size=28)


@pytest.fixture
def settings(tmp_path):
    """A recipe of a causal TSM, for videos of random size."""
    rng = np.random.default_rng(0)
    lines = []
    for index, num_frames in enumerate(LENGTHS):
        size = tuple(rng.integers(36, 60, 2).tolist())
        write_frames(tmp_path / "rawframes" / f"v{index}", num_frames, rng, size=size)
        lines.append(f"v{index} {num_frames} {index % 4}\n")
    for split in ("train", "val"):
        (tmp_path / f"{split}_list.txt").write_text("".join(lines))
    (tmp_path / "label_map.txt").write_text("a\nb\nc\nd\n")
    found = configuration.base(dataset="frames", model="tsm_resnet10", num_classes=4)
    found.data_dir = str(tmp_path)
    found.model.update(width=8, num_segments=3, causal=True, init_std=1.0)
    found.data.train.update(SMALL)
    found.protocols.efficient.update(SMALL)
    return found


def model_of(settings):
    return nnx.jit(lambda: create_model(**settings.model, rngs=nnx.Rngs(0)))()


def scores_by_hand(model, data, section, num_frames):
    """Scores `[frames, classes]` of every video, from streams of single crops."""
    spacing = frame_views.frame_spacing(View(**section), num_frames)
    view = frame_views.FrameView(**section, spacing=spacing)
    reader = ClipReader({"view": view}, data.source)
    stream = streaming(model)
    for record in data.val_records:
        count = len(view.sampler()(record.num_frames, None))
        frames = np.zeros((view.num_views, count, view.crop_size, view.crop_size, 3), np.uint8)
        for clip, pixels in reader.read(record, (0, 0, record.index)).pairs():
            for _, position, mirrored in clip.places:
                place = divmod(position, count)
                frames[place] = pixels[0, :, ::-1] if mirrored else pixels[0]
        state, logits = stream.init(view.num_views, view.crop_size), []
        for frame in frames.swapaxes(0, 1):
            found, state = stream.step(state, frame)
            logits.append(np.asarray(found))
        yield merge_views(np.stack(logits, axis=1), merge=model.merge_views)


@pytest.mark.parametrize("crop", ["center", pytest.param("ten", marks=pytest.mark.thorough)])
def test_scores_are_those_of_streams_fed_by_hand(settings, tmp_path, crop):
    """Seven videos take turns in eight rows, or seventy crops."""
    section = configuration.view(**SMALL, crop=crop)
    data = Data(settings, str(tmp_path / "run"))
    model, order = model_of(settings), np.array([3, 1, 0, 2])
    options = dict(num_frames=9.0, pooling="window", class_order=order)
    evaluator = streamed.StreamedEvaluator(model, "efficient", section, max_views=4, **options)
    found = evaluator.run(data)
    expected = list(scores_by_hand(model, data, section, 9.0))
    assert [len(scores) for scores in expected] == [1, 13, 4, 8, 2, 10, 6]
    last = np.stack([scores[-1, order] for scores in expected])
    np.testing.assert_allclose(found["scores"].scores, last, atol=1e-5)
    assert len(np.unique(last, axis=0)) == len(last)
    labels = data.val_labels
    for tenth, entry in enumerate(found["early_recognition"], start=1):
        seen = [scores[int(np.ceil(tenth * len(scores) / 10)) - 1, order] for scores in expected]
        right = np.argmax(seen, axis=1) == labels
        assert (entry["share"], entry["top1"]) == (tenth / 10, pytest.approx(right.mean()))
    assert found["early_recognition"][-1]["top1"] == found["metrics"]["top1"]
    assert found["protocol"] == "efficient_streamed" and found["num_unreadable"] == 0
    about = dict(pooling="window", window=3, spacing=3.0, frames_per_video=44 / 7)
    assert found["streamed"] == pytest.approx(about)


@pytest.mark.thorough
def test_an_unreadable_video_counts_as_wrong(settings, tmp_path):
    (tmp_path / "rawframes" / "v2" / "00005.jpg").write_bytes(b"")
    data = Data(settings, str(tmp_path / "run"))
    options = dict(num_frames=9.0, pooling="mean", max_views=4)
    section = settings.protocols.efficient
    found = streamed.StreamedEvaluator(model_of(settings), "x", section, **options).run(data)
    assert found["unreadable"] == ["v2"] and found["num_videos"] == len(LENGTHS)
    assert not found["scores"].scores[2].any() and found["scores"].scores[3].any()


# Files


@pytest.fixture
def stored(settings, tmp_path):
    """A checkpoint, of training examples of nine frames."""
    sampling = {"num_frames": 9.0, "seconds": None, "frame_rate": None}
    settings.protocols.backward = configuration.view(**SMALL, frame_order="reversed")
    settings.protocols.accurate = configuration.view(
        **SMALL | dict(crop_size=32), sampling="twice", crop="three"
    )
    about = {"config": settings.to_dict(), "class_names": list("abcd"), "sampling": sampling}
    checkpoint.save_model(str(tmp_path / "stored"), model_of(settings), about)
    return str(tmp_path / "stored")


def test_a_result_has_both_accuracies(stored, tmp_path, capsys):
    run = tmp_path / "run"
    assert evaluate.evaluate(None, stored, str(run), streamed="exponential") == 0
    clips, frames = (
        json.loads((run / "results" / f"{name}.json").read_text())
        for name in ("efficient", "efficient_streamed")
    )
    assert frames["clip_wise"] == clips["metrics"] and frames["num_videos"] == len(LENGTHS)
    assert frames["checkpoint"] == clips["checkpoint"] and len(frames["early_recognition"]) == 10
    assert (frames["streamed"]["spacing"], frames["streamed"]["pooling"]) == (3, "exponential")
    by_clips, by_frames = (
        score_files.read(str(run / "results" / f"{name}.npz")).scores
        for name in ("efficient", "efficient_streamed")
    )
    assert np.abs(by_clips - by_frames).max() > 1e-4
    printed = capsys.readouterr().out
    assert "efficient_streamed" in printed and "100%" in printed


@pytest.mark.thorough
def test_the_command_streams(stored, tmp_path, capfd):
    command = ["eval", stored, f"--workdir={tmp_path / 'run'}", "--streamed", "--json"]
    with pytest.raises(SystemExit) as done:
        cli.main([*command, "--protocol=backward,accurate"])
    assert not done.value.code
    found = json.loads(capfd.readouterr().out)
    assert list(found) == ["backward", "accurate", "accurate_streamed"]
    assert found["accurate_streamed"]["num_views"] == 3
    assert found["accurate_streamed"]["streamed"]["pooling"] == "mean"


# Which frames


def test_frames_are_as_far_apart_as_in_a_clip():
    small = configuration.view(**SMALL).to_dict()

    def spacing(**changes):
        return frame_views.frame_spacing(View(**small | changes), 24.0)

    assert spacing() == spacing(sampling="twice") == spacing(sampling="random") == 8
    assert spacing(sampling="clips", frame_interval=4) == 4
    assert spacing(sampling="dense", sample_range=64) == 21
    with pytest.raises(UserError, match="length of training examples"):
        frame_views.frame_spacing(View(**small), None)


@pytest.mark.parametrize("num_frames", [1, 7, 8, 24, 25])
def test_a_video_of_the_usual_length_has_the_frames_of_its_clip(num_frames):
    view = View(**configuration.view(**SMALL).to_dict())
    sample = frame_views.FrameSampler(frame_views.frame_spacing(view, num_frames))
    np.testing.assert_array_equal(
        sample(num_frames, None)[:, 0], view.sampler()(num_frames, None)[0]
    )
    longer = sample(10 * num_frames, None)[:, 0]
    assert len(longer) == 30 and longer.max() < 10 * num_frames


def test_a_video_of_endless_frames_is_an_error():
    with pytest.raises(FrameError, match=r"1,000,000 frames .*--stream"):
        frame_views.FrameSampler(2.0)(1_000_000, None)
    with pytest.raises(UserError, match="spacing=0"):
        frame_views.FrameSampler(0)


def test_protocols_out_of_order_have_no_stream():
    forward, backward = (
        configuration.view(**SMALL, frame_order=order) for order in ("forward", "reversed")
    )
    many = configuration.view(**SMALL, crop="ten")
    assert streamed.streamed_protocol({"b": backward, "m": many, "f": forward}) == "f"
    with pytest.raises(UserError, match=r"b.*--protocol"):
        streamed.streamed_protocol({"b": backward})


@pytest.mark.thorough
def test_what_cannot_be_streamed_is_said_before_anything_is_read(settings):
    section = settings.protocols.efficient
    options = dict(num_frames=9.0, pooling="window", max_views=4)
    settings.model.causal = False
    with pytest.raises(UserError, match=r"model\.causal=True"):
        streamed.StreamedEvaluator(model_of(settings), "efficient", section, **options)
    settings.model.causal = True
    drawn = configuration.view(**SMALL, relations="sample")
    with pytest.raises(UserError, match=r"efficient\.relations='sample'"):
        streamed.StreamedEvaluator(model_of(settings), "efficient", drawn, **options)


PROCESS = """
import json, sys
import jax, numpy as np
from flax import nnx

config, out, process, address = json.loads(sys.argv[1])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, process)
from trn_jax import create_model
from trn_jax.distributed.sharding import make_mesh, replicated
from trn_jax.evaluation.streamed import StreamedEvaluator
from trn_jax.recipe_data import Data
from trn_jax.settings import from_dict

settings = from_dict(config)
make = lambda: create_model(**settings.model, rngs=nnx.Rngs(0))
graph, state = nnx.split(nnx.eval_shape(make))
whole = replicated(make_mesh())
state = jax.jit(lambda: nnx.as_pure(nnx.state(make())), out_shardings=whole)()
assert (jax.device_count(), jax.local_device_count()) == (4, 2)
options = dict(num_frames=9.0, pooling="window", max_views=4)
section = settings.protocols.efficient
evaluator = StreamedEvaluator(nnx.merge(graph, state), "efficient", section, **options)
found = evaluator.run(Data(settings, out))
np.savez(f"{out}/{process}.npz", scores=found["scores"].scores, frames=found["distinct_views"])
"""


@pytest.mark.slow
def test_two_processes_evaluate_as_one(settings, tmp_path):
    """Seven videos, unevenly shared; parameters are on the devices of both."""
    data = Data(settings, str(tmp_path / "run"))
    expected = list(scores_by_hand(model_of(settings), data, settings.protocols.efficient, 9.0))
    address = f"127.0.0.1:{random.randrange(20_000, 32_000)}"
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    processes = []
    for number in range(2):
        arguments = json.dumps([settings.to_dict(), str(tmp_path), number, address])
        command = [sys.executable, "-c", PROCESS, arguments]
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    for number in range(2):
        with np.load(tmp_path / f"{number}.npz") as found:
            last = np.stack([scores[-1] for scores in expected])
            np.testing.assert_allclose(found["scores"], last, atol=1e-4)
            assert found["frames"] == 44
