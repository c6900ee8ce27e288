"""The page of exported models in a real browser: answers of `predict`, and what can go wrong."""

import pathlib
import shutil

import av
import numpy as np
import painted
import pytest
from browser import Tab, launched, runtime, served, write_folder, write_y4m
from flax import nnx

from trn_jax import create_model, load_model, predict
from trn_jax.checkpoints import calibration_file, checkpoint
from trn_jax.config import base, view
from trn_jax.export.export import export_page
from trn_jax.prediction.detection import events_of, settings_for

pytest.importorskip("onnx")

RATE = 25
NAMES = ["falling", "nothing", "rising", "turning"]
WORDS = ("فتح الباب", "开门", "Donaudampfschifffahrtsgesellschaft" * 4, "<b>opening</b>")
CALIBRATION = calibration_file.Calibration(
    temperature=2.5,
    threshold=0.9,
    thresholds=dict(zip(NAMES, (0.95, 0.96, 0.97, 0.98), strict=True)),
    multi_label=False,
    protocol="efficient",
    split="val",
    num_videos=10,
    list_sha256="",
    before={"ece": 0.1, "nll": 1.0},
    after={"ece": 0.1, "nll": 1.0},
)
SAMPLING = {"num_frames": 20.0, "seconds": 0.8, "frame_rate": float(RATE)}


def store(folder, model, *, class_names=NAMES, **options):
    """Write a checkpoint of a small model whose scores differ between videos; returns its path."""
    config = base(dataset="frames", model=model, num_classes=len(class_names))
    config.model.update(width=4, num_segments=4, **options)
    for section in (config.data.train, config.data.val, config.protocols.efficient):
        section.update(short_side=32, crop_size=28)
    views = dict(short_side=32, crop_size=28, sampling="twice", crop="ten")
    config.protocols["twice_ten"] = view(**views)
    network = create_model(**config.model, rngs=nnx.Rngs(0))
    state = nnx.state(network.head)
    rng = np.random.default_rng(0)
    for _, leaf in nnx.to_flat_state(state):
        leaf[...] = rng.normal(0, 0.5, leaf.shape).astype(np.float32)
    nnx.update(network.head, state)
    about = {"config": config.to_dict(), "class_names": class_names, "sampling": SAMPLING}
    checkpoint.save_model(str(folder), network, about)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Function that gives the checkpoint and the page of a model."""
    folder, done = tmp_path_factory.mktemp("pages"), {}

    def of(kind):
        if kind not in done:
            options = dict(model="tsn_resnet10" if kind == "tsn" else "tsm_resnet10")
            if kind == "stream":
                options |= dict(causal=True)
            if kind == "names":
                names = [f"{n} {word}" for n in range(100) for word in WORDS]
                options |= dict(class_names=names)
            path = store(folder / kind, **options)
            if kind == "calibrated":
                calibration_file.write(pathlib.Path(path), CALIBRATION)
            options = {
                "stream": dict(form="stream"),
                "views": dict(protocol="twice_ten"),
                "batch": dict(protocol="twice_ten", batch=3),
                "float16": dict(dtype="float16"),
            }
            page = folder / f"{kind}_page"
            export_page(path, str(page), str(runtime()), **options.get(kind, {}))
            done[kind] = path, page
        return done[kind]

    return of


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    film = tmp_path_factory.mktemp("camera") / "film.y4m"
    with launched(write_y4m(film, painted.frames(250), RATE)) as found:
        yield found


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films of 45 frames, which are one example, and of 110, which are a timeline."""
    folder = tmp_path_factory.mktemp("films")
    return {
        name: painted.write(folder / f"{name}.mp4", painted.frames(count), g=12)
        for name, count in (("short", 45), ("long", 110))
    }


def check_frames(frames):
    """Check that frames are those of their times; returns them by number."""
    found = {round(time * RATE): pixels for time, pixels in frames}
    for number, pixels in found.items():
        assert painted.number(pixels) == number
    return found


@pytest.mark.parametrize(
    ("kind", "film"),
    [
        ("clip", "short"),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in [("clip", "long"), ("stream", "short"), ("calibrated", "long")]
        ),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                *(("tsn", "long"), ("stream", "long"), ("calibrated", "short")),
                *(("views", "short"), ("batch", "short"), ("float16", "short")),
            ]
        ),
    ],
)
def test_answers_of_a_film_are_those_of_predict(models, browser, films, tmp_path, kind, film):
    path, page = models(kind)
    with served(page) as address:
        tab = Tab(browser, address)
        assert tab.ready() == ""
        tab.choose(films[film])
        assert tab.problem == ""
        frames, answers, events = tab.recorded()
        shown = tab.text("#results")
        assert all(url.startswith((address, "blob:", "data:")) for url in tab.requests)
    # The same frames as images: what the page didn't decode is black, and would change answers.
    numbered = check_frames(frames)
    last = 45 if film == "short" else 110
    numbered.setdefault(last - 1, np.zeros_like(frames[0][1]))
    folder = write_folder(tmp_path / "frames", numbered)
    model = load_model(path)
    options = dict(stream=kind == "stream")
    if kind in ("views", "batch"):
        options = dict(protocol="twice_ten")
    expected = list(predict(folder, model, frame_rate=RATE, **options))
    assert len(answers) == len(expected)
    for got, answer in zip(answers, expected, strict=True):
        times = [got["start"], got["end"]]
        assert times == pytest.approx([answer.start, answer.end], abs=1e-3)
        atol = 2e-2 if kind == "float16" else 1e-3
        np.testing.assert_allclose(got["scores"], answer.decisive, atol=atol)
    if film == "short":
        assert answer.label in shown
        assert ("None of these" in shown) == answer.is_none == (kind == "calibrated")
        return
    wanted = events_of(expected, NAMES, settings_for(answer.calibration, NAMES))
    assert [NAMES[event["label"]] for event in events] == [event.label for event in wanted]
    for got, event in zip(events, wanted, strict=True):
        assert got["start"] == pytest.approx(event.start, abs=1e-3)
        assert got["end"] == pytest.approx(event.end, abs=1e-3)


@pytest.mark.thorough("clip")
@pytest.mark.parametrize("kind", ["clip", "stream"])
def test_answers_of_a_camera_are_those_of_predict(models, browser, tmp_path, kind):
    path, page = models(kind)
    with served(page) as address:
        tab = Tab(browser, address)
        assert tab.ready() == ""
        tab.page.click("#camera")
        tab.page.wait_for_selector("#bars li")
        tab.page.wait_for_timeout(4000)
        tab.page.click("#stop")
        tab.wait(1)
        assert tab.problem == ""
        frames, answers, _ = tab.recorded()
    assert len(answers) >= 3
    numbers = [painted.number(pixels) for _, pixels in frames]
    assert len(set(numbers)) > 10 and np.all(
        np.diff(numbers) % 250 < 100
    )  # different frames, in order
    model = load_model(path)
    if kind == "stream":
        shown = dict(frames)
        folder = write_folder(tmp_path / "shown", dict(enumerate(shown[a["end"]] for a in answers)))
        # An image per step of the stream.
        expected = list(predict(folder, model, stream=True, frame_rate=4 / SAMPLING["seconds"]))
        assert len(expected) == len(answers)
        found = [answer["scores"] for answer in answers]
        np.testing.assert_allclose(found, [each.scores for each in expected], atol=1e-3)
        return
    for n, answer in enumerate(answers[:: max(len(answers) // 3, 1)]):
        # A point of time has the first frame from it on.
        points = answer["first"] + np.arange(4)
        times = np.array([time for time, _ in frames]) / answer["step"]
        shown = [frames[int(np.argmax(times > point - 0.5))][1] for point in points]
        folder = write_folder(tmp_path / f"window{n}", dict(enumerate(shown)))
        (expected,) = predict(folder, model, timeline=False)
        np.testing.assert_allclose(answer["scores"], expected.scores, atol=1e-3)


@pytest.mark.slow
def test_a_film_without_an_index(models, browser, tmp_path):
    muxer = {"movflags": "frag_keyframe+empty_moov"}
    film = painted.write(tmp_path / "film.mp4", painted.frames(45), g=12, bf=0, muxer=muxer)
    # Chromium doesn't find all frames of this one.
    other = painted.write(tmp_path / "other.mp4", painted.frames(110), g=12, bf=2, muxer=muxer)
    _, page = models("clip")
    with served(page) as address:
        tab = Tab(browser, address)
        assert tab.ready() == ""
        tab.choose(film)
        assert tab.problem == ""
        frames, (answer,), _ = tab.recorded()
        assert tab.text("#status") == "film.mp4"
        tab.choose(other)
        is_exact = tab.text("#status") == "other.mp4"
        others, _, _ = tab.recorded()
    assert answer["end"] == pytest.approx(45 / RATE, abs=0.01)
    assert sorted(check_frames(frames)) == [5, 16, 28, 39]
    numbers = {round(time * RATE): painted.number(pixels) for time, pixels in others[4:]}
    assert is_exact == all(number == wanted for wanted, number in numbers.items())


# In the page, as the film may have ended before a click from here arrives.
STOP_AT_FIRST_WINDOW = """() => {
  const strip = document.querySelector("#strip"), stop = document.querySelector("#stop");
  new MutationObserver((_, observer) => {
    if (stop.hidden || !strip.querySelector("b")) return;
    observer.disconnect();
    stop.focus();
    stop.click();
  }).observe(strip, { childList: true, subtree: true });
}"""


@pytest.mark.slow
def test_another_video_and_stop(models, browser, films):
    _, page = models("clip")
    with served(page) as address:
        tab = Tab(browser, address)
        assert tab.ready() == ""
        tab.choose(films["long"], wait=False)
        tab.page.wait_for_selector("#strip b", state="attached")
        tab.choose(films["short"])  # while the other one is computed
        assert tab.problem == "" and tab.page.is_hidden("#timeline")
        _, answers, _ = tab.recorded()
        assert [answers[-1]["start"], answers[-1]["end"]] == pytest.approx([0, 1.8])
        tab.page.evaluate(STOP_AT_FIRST_WINDOW)
        tab.choose(films["long"], wait=False)
        tab.wait(2)
        assert tab.page.evaluate("document.activeElement.id") == "file"
        _, after, events = tab.recorded()
        assert len(after) < len(answers) + 18 and events is None
        tab.choose(films["short"])
        assert tab.page.is_visible("#answer")


@pytest.mark.slow
def test_a_dropped_video(models, browser, films):
    _, page = models("clip")
    with served(page) as address:
        tab = Tab(browser, address)
        assert tab.ready() == ""
        shutil.copyfile(films["short"], page / "dropped.mp4")
        tab.page.evaluate(
            """async () => {
              const content = await (await fetch("dropped.mp4")).blob();
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([content], "dropped.mp4", { type: "video/mp4" }));
              document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
            }"""
        )
        tab.page.wait_for_selector("#bars li")
        assert tab.problem == ""


@pytest.mark.slow
def test_files_that_are_no_videos(models, browser, films, tmp_path):
    _, page = models("clip")
    (tmp_path / "text.mp4").write_text("no video")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        container.mux([*stream.encode(silence), *stream.encode(None)])
    with served(page) as address:
        tab = Tab(browser, address)
        assert tab.ready() == ""
        for path, word in ((tmp_path / "text.mp4", "text.mp4"), (sound, "sound")):
            tab.choose(path)
            assert word in tab.problem and "\n" not in tab.problem
        tab.choose(films["short"])
        assert tab.problem == "" and tab.page.is_visible("#bars")


@pytest.mark.slow
def test_a_refused_camera(models, browser):
    _, page = models("clip")
    refuse = """navigator.mediaDevices.getUserMedia = async () => {
      throw new DOMException("no", "NotAllowedError");
    };"""
    with served(page) as address:
        tab = Tab(browser, address, before=refuse)
        assert tab.ready() == ""
        tab.page.click("#camera")
        tab.page.wait_for_selector("#problem:not(:empty)")
        assert "refused" in tab.problem


@pytest.mark.thorough(1)
@pytest.mark.parametrize("missing", ["model.onnx", "ort/ort-wasm-simd-threaded.wasm"])
def test_a_folder_without_a_file(models, browser, tmp_path, missing):
    _, page = models("clip")
    shutil.copytree(page, tmp_path / "page")
    (tmp_path / "page" / missing).unlink()
    with served(tmp_path / "page") as address:
        assert missing in Tab(browser, address).ready()


@pytest.mark.thorough
def test_a_model_that_computes_something_else_is_refused(models, browser, tmp_path):
    import onnx

    _, page = models("clip")
    shutil.copytree(page, tmp_path / "page")
    path = tmp_path / "page" / "model.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weights = onnx.numpy_helper.to_array(largest)
    largest.CopyFrom(onnx.numpy_helper.from_array(1.1 * weights, largest.name))
    onnx.save(model, path)
    with served(tmp_path / "page") as address:
        assert "scores" in Tab(browser, address).ready()


@pytest.mark.thorough
def test_a_page_that_is_not_served(models, browser):
    _, page = models("clip")
    tab = Tab(browser, (page / "index.html").as_uri())
    tab.page.wait_for_selector("#unserved", state="visible")
    assert "http.server" in tab.text("#unserved")


@pytest.mark.thorough("light")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_and_the_keyboard(models, browser, films, scheme):
    _, page = models("names")
    options = dict(viewport=dict(width=360, height=640), color_scheme=scheme)
    with served(page) as address:
        tab = Tab(browser, address, **options)
        assert tab.ready() == ""
        focused = []
        for _ in range(3):
            tab.page.keyboard.press("Tab")
            focused.append(tab.page.evaluate("document.activeElement.id || 'summary'"))
        assert focused == ["file", "camera", "summary"]
        tab.page.keyboard.press("Enter")
        assert tab.page.evaluate("document.querySelectorAll('#classes li').length") == 400
        tab.choose(films["short"])
        assert tab.page.evaluate("document.scrollingElement.scrollWidth") <= 360
        assert tab.page.evaluate("document.querySelectorAll('#bars li').length") == 5
        assert tab.page.evaluate("document.querySelector('#bars .name').dir") == "auto"
        heard = tab.page.text_content("#heard")
        assert heard and heard.startswith(tab.text("#headline"))
