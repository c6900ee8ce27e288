"""The functions of the page's JavaScript against those of the package, by Node.js."""

import base64
import dataclasses
import fractions

import av
import cv2
import numpy as np
import pytest
from javascript import call, needs_node

from trn_jax.config import base, view
from trn_jax.data.videos import VideoFile
from trn_jax.data.views import View
from trn_jax.evaluation import calibration, merging
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.contract import Contract
from trn_jax.prediction.detection import DetectionSettings, events_of
from trn_jax.prediction.live import grid
from trn_jax.prediction.timeline import plan_windows
from trn_jax.prediction.windows import Crops
from trn_jax.settings import resolved_views

pytestmark = needs_node

KINDS = (
    dict(sampling="center"),
    dict(sampling="center", short_videos="first"),
    dict(sampling="center", frame_order="reversed"),
    dict(sampling="twice"),
    dict(sampling="clips", frame_interval=3),
    dict(sampling="clips", num_clips=4, frame_interval=2, clip_positions="middles"),
    dict(sampling="clips", num_clips=3, frame_interval=5, out_of_bound="repeat_last"),
    dict(sampling="dense", num_clips=1, sample_range=20),
    dict(sampling="dense", num_clips=10, sample_range=64),
)


def view_of(**keys):
    """A `View`, with defaults for what isn't given."""
    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    config.protocols["one"] = view(**dict(short_side=32, crop_size=28) | keys)
    return View(**resolved_views(config)["protocols.one"].to_dict())


def encoded(content):
    return {"bytes": base64.b64encode(content).decode()}


def test_frames_of_clips(tmp_path):
    views = [view_of(num_segments=n, **kind) for kind in KINDS for n in (1, 3, 8)]
    lengths = [*range(1, 30), 47, 64, 65, 99, 300, 1001]
    cases = [(each, length) for each in views for length in lengths]
    found = call(tmp_path, [["clipIndices", dataclasses.asdict(v), n] for v, n in cases])
    for (each, length), indices in zip(cases, found, strict=True):
        assert indices == each.sampler()(length, None).tolist(), (each, length)


@pytest.mark.parametrize("key", [dict(sampling="random"), dict(frame_order="shuffled")])
def test_views_that_draw_are_refused(tmp_path, key):
    (found,) = call(tmp_path, [["clipIndices", dataclasses.asdict(view_of(**key)), 10]])
    assert next(iter(key.values())) in found["problem"]


def test_crops_equal_opencv_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(64, 72), (73, 64), (33, 47), (64, 80), (48, 64), (28, 28), (100, 176), (31, 90)]
    kinds = [("center", 24, 32), ("three", 28, 28), ("ten", 24, 28), ("center", 64, 73)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    cases = [
        (image, view_of(crop=c, crop_size=s, short_side=r)) for image in images for c, s, r in kinds
    ]
    found = call(
        tmp_path,
        [
            [
                "cutCrops",
                {
                    "height": image.shape[0],
                    "width": image.shape[1],
                    "data": encoded(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).tobytes()),
                },
                dataclasses.asdict(each),
            ]
            for image, each in cases
        ],
    )
    for (image, each), crops in zip(cases, found, strict=True):
        cropping = Crops(each)
        boxes = cropping.cut(image)
        expected = [boxes[n, :, ::-1] if flip else boxes[n] for n, flip in cropping.places]
        got = np.array(crops, np.uint8).reshape(np.shape(expected))
        np.testing.assert_array_equal(got, expected, err_msg=f"{image.shape} {each.crop}")


def contracts():
    rng = np.random.default_rng(1)
    for kind in KINDS:
        view = view_of(num_segments=int(rng.integers(1, 9)), **kind)
        yield Contract("one", view, {}, None, float(rng.uniform(0.5, 4)), 12.5)
        yield Contract("one", view, {}, 30.0, None, None)


def as_metadata(contract):
    return contract.to_dict() | {"view": dataclasses.asdict(contract.view)}


def test_windows_of_videos(tmp_path):
    rng = np.random.default_rng(2)
    plans, wanted = [], []
    for contract in contracts():
        for count in (1, 7, 200):
            times = np.cumsum(np.append(0, rng.uniform(0.02, 0.06, count - 1)))
            total, by_frame = float(times[-1] + 0.04), bool(rng.integers(2))
            options = dict(every=None, frame_rate=count / total, seed=0, by_frame=by_frame)
            plans.append(["planWindows", as_metadata(contract), count / total, by_frame])
            wanted.append((plan_windows(contract, **options), times, total))
    found = call(tmp_path, plans)
    calls = [
        ["windows", plan, times.tolist(), total]
        for plan, (_, times, total) in zip(found, wanted, strict=True)
    ]
    for (plan, times, total), windows in zip(wanted, call(tmp_path, calls), strict=True):
        expected = list(plan.windows(times, total))
        assert len(windows) == len(expected)
        for got, window in zip(windows, expected, strict=True):
            assert [got["start"], got["end"]] == pytest.approx([window.start, window.end])
            np.testing.assert_array_equal(times[np.array(got["frames"])], window.keys)


def test_points_of_time_of_a_camera(tmp_path):
    plans = [plan_windows(each, every=None, frame_rate=None, seed=0) for each in contracts()]
    found = call(tmp_path, [["planWindows", as_metadata(each), None] for each in contracts()])
    for plan, got in zip(
        plans, call(tmp_path, [["liveGrid", each] for each in found]), strict=True
    ):
        numbers, step = grid(plan)
        assert got["numbers"] == numbers.tolist()
        assert got["step"] == pytest.approx(step)


@pytest.mark.parametrize("several", [False, True])
def test_merged_and_calibrated_scores(tmp_path, several):
    rng = np.random.default_rng(3)
    logits = [rng.normal(0, scale, (4, 6)) for scale in (0.1, 3, 40, 200)]
    for merge in ("logits", "probabilities"):
        found = call(tmp_path, [["mergeViews", each.tolist(), merge, several] for each in logits])
        options = dict(merge=merge, multi_label=several)
        expected = [merging.merge_views(each, **options).astype(np.float32) for each in logits]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        calls = [
            ["calibrated", each.tolist(), t, several] for each in expected for t in (0.3, 1, 4)
        ]
        after = [
            calibration.calibrated(each, t, multi_label=several)
            for each in expected
            for t in (0.3, 1, 4)
        ]
        np.testing.assert_allclose(call(tmp_path, calls), after, atol=1e-6)


def example_windows(rng, num_classes, *, smooth):
    """Answers of a video whose scores rise and fall."""
    count, stride = int(rng.integers(1, 60)), float(rng.choice([0.25, 0.5, 1.0, 2.0]))
    logits = rng.normal(0, 2.5, (count + smooth, num_classes))
    logits = np.stack([logits[n : n + smooth].sum(0) for n in range(count)]) / np.sqrt(smooth)
    return [
        Answer("film", n * stride, n * stride + 2.0, row.astype(np.float32), is_window=True)
        for n, row in enumerate(merging.merge_views(1.5 * logits[None], merge="logits"))
    ]


@pytest.mark.parametrize("several", [False, True])
def test_events(tmp_path, several):
    rng = np.random.default_rng(4)
    names = ["falling", "nothing", "rising", "turning"]
    cases = []
    for number in range(100):
        windows = example_windows(rng, len(names), smooth=1 + number % 4)
        if number % 5 == 0:  # as of a stream, whose windows grow until they have their length
            windows = [
                dataclasses.replace(each, start=max(each.end - 2.0, 0.0), end=each.end - 1.5)
                for each in windows
            ]
        settings = DetectionSettings(
            threshold=tuple(rng.uniform(0.2, 0.7, len(names))), extend=bool(number % 3)
        )
        cases.append((windows, settings))
    calls = [
        [
            *("events", names),
            dict(
                thresholds=settings.threshold,
                hysteresis=settings.hysteresis,
                smoothing=settings.smoothing,
                minSeconds=settings.min_seconds,
                extend=settings.extend,
            ),
            several,
            [dict(start=w.start, end=w.end, scores=w.scores.tolist()) for w in windows],
        ]
        for windows, settings in cases
    ]
    num_events = 0
    for (windows, settings), found in zip(cases, call(tmp_path, calls), strict=True):
        expected = events_of(windows, names, settings, multi_label=several)
        found.sort(key=lambda event: (event["start"], event["end"]))
        assert [names[event["label"]] for event in found] == [event.label for event in expected]
        num_events += len(expected)
        for got, event in zip(found, expected, strict=True):
            values = [got["start"], got["end"], got["score"]]
            assert values == pytest.approx([event.start, event.end, event.score], abs=1e-6)
    assert num_events > 250


def write_video(path, codec, *, stamps, options, muxer=None):
    """Write frames at some times, in milliseconds."""
    rng = np.random.default_rng(5)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for stamp in stamps:
            pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = stamp, fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_times_of_the_frames_of_a_file(tmp_path):
    rng = np.random.default_rng(6)
    irregular = np.cumsum(rng.integers(20, 90, 40)).tolist()
    regular = list(range(0, 2000, 40))
    written = {
        "b_frames.mp4": ("libx264", regular, {"bf": "2"}),
        "irregular.mp4": ("libx264", irregular, {"bf": "0"}),
        "irregular_b_frames.mov": ("libx264", irregular, {"bf": "3"}),
        "regular.webm": ("libvpx", regular, {"deadline": "realtime", "cpu-used": "8"}),
        "irregular.mkv": ("libx264", irregular, {"bf": "2"}),
        # As browsers record: without a length, and with clusters of unknown size.
        "live.webm": ("libvpx", irregular, {"deadline": "realtime", "cpu-used": "8"}),
    }
    calls = []
    for name, (codec, stamps, options) in written.items():
        muxer = {"live": "1"} if name.startswith("live") else None
        write_video(tmp_path / name, codec, stamps=stamps, options=options, muxer=muxer)
        calls.append(["times", encoded((tmp_path / name).read_bytes())])
    for name, found in zip(written, call(tmp_path, calls), strict=True):
        with VideoFile(str(tmp_path / name)) as video:
            np.testing.assert_allclose(found, video.times, atol=2e-3, err_msg=name)


def test_files_without_an_index_have_no_times(tmp_path):
    rng = np.random.default_rng(7)
    write_video(tmp_path / "a.mp4", "libx264", stamps=range(0, 400, 40), options={})
    write_video(tmp_path / "b.webm", "libvpx", stamps=range(0, 400, 40), options={})
    broken = [b"", b"GIF89a", bytes(100), rng.bytes(10_000)]
    for name in ("a.mp4", "b.webm"):
        content = (tmp_path / name).read_bytes()
        for _ in range(60):
            changed = bytearray(content)
            for at in rng.integers(len(content), size=8):
                changed[at] = rng.integers(256)
            broken.append(bytes(changed[: rng.integers(1, len(content))]))
    found = call(tmp_path, [["times", encoded(each)] for each in broken])
    assert found[:4] == [None] * 4
    for times in found:  # nothing else than an ascending list or nothing
        assert times is None or (times[0] == 0 and np.all(np.diff(times) > 0))


def test_arrays_of_a_golden_input(tmp_path):
    rng = np.random.default_rng(8)
    arrays = {
        "clips": rng.integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8),
        "logits": rng.normal(size=(2, 7)).astype(np.float32),
        "one": np.ones(1, np.float32),
    }
    np.savez_compressed(tmp_path / "golden.npz", **arrays)
    (found,) = call(tmp_path, [["arrays", encoded((tmp_path / "golden.npz").read_bytes())]])
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name]["shape"] == list(array.shape)
        got = np.array(found[name]["data"], array.dtype).reshape(array.shape)
        np.testing.assert_array_equal(got, array)


def test_metadata_of_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    text = "Größe, 走, \u202e" + 300 * "x"
    weights = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "weights")
    graph = onnx.helper.make_graph([], "graph", [], [], [weights])
    model = onnx.helper.make_model(graph)
    props = {"trn_jax": text, "other": ""}
    onnx.helper.set_model_props(model, props)
    content = model.SerializeToString()
    broken = [b"<!doctype html>", content[:-5], content[:200]]
    found = call(tmp_path, [["metadata", encoded(each)] for each in (content, *broken)])
    assert found[0] == props
    assert all("ONNX" in each["problem"] for each in found[1:])
