"""A real browser for the tests of the page: Chromium, and what it takes to record its answers."""

import base64
import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import threading

import cv2
import numpy as np
import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# Keeps the frames that the page takes, as text, and its answers.
_RECORDER = """
window.recorded = { frames: [], answers: [], events: null };
document.addEventListener("trn-jax-frame", ({ detail: { image, time } }) => {
  let text = "";
  for (let at = 0; at < image.data.length; at += 4096) {
    text += String.fromCharCode(...image.data.subarray(at, at + 4096));
  }
  recorded.frames.push({ time, width: image.width, height: image.height, data: btoa(text) });
});
document.addEventListener("trn-jax-answer", ({ detail }) => recorded.answers.push({ ...detail }));
document.addEventListener("trn-jax-done", () => {
  document.documentElement.dataset.done = (recorded.done = (recorded.done ?? 0) + 1);
});
document.addEventListener("trn-jax-end", ({ detail }) => (recorded.events = detail.events));
"""


def chromium():
    """Path of an installed Chromium; skips the test without."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("chromium is not installed")
    return found


def runtime():
    """The folder `dist` of onnxruntime-web; skips the test without."""
    given = os.environ.get("TRN_JAX_ORT_DIST")
    found = pathlib.Path(given or REPOSITORY / "node_modules" / "onnxruntime-web" / "dist")
    if not found.is_dir():
        pytest.skip("onnxruntime-web is not here; set TRN_JAX_ORT_DIST to its folder dist")
    return found


@contextlib.contextmanager
def launched(camera):
    """A browser whose camera shows a `.y4m` film again and again; skips the test without."""
    playwright = pytest.importorskip("playwright.sync_api")
    camera = [*_CAMERA, f"--use-file-for-fake-video-capture={camera}"]
    options = dict(executable_path=chromium(), args=["--no-sandbox", *camera])
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(**options)
        try:
            yield browser
        finally:
            browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a local server of a folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


class Tab:
    """The page of an exported model in a tab.

    Attributes:
        page: of Playwright.
        requests: the addresses that it asked for.
    """

    def __init__(self, browser, address, *, before="", **options):
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(240_000)  # for busy machines
        self.requests = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(_RECORDER + before)
        self.page.goto(address)

    def ready(self):
        """Wait for the model; returns the problem, or ""."""
        self.page.wait_for_selector("body.ready, #problem:not(:empty)")
        return self.problem

    @property
    def problem(self):
        """What the page says is wrong, or ""."""
        return self.text("#problem")

    def text(self, selector):
        """The text of an element."""
        return self.page.inner_text(selector)

    def choose(self, path, *, wait=True):
        """Choose a file, and wait until the page has done with it."""
        done = self.page.evaluate("recorded.done ?? 0")
        self.page.set_input_files("#file", str(path))
        if wait:
            self.wait(done + 1)

    def wait(self, done):
        """Wait until the page has done with so many videos."""
        self.page.wait_for_selector(f'html[data-done="{done}"]', state="attached")

    def recorded(self):
        """Frames, as pairs of a time and pixels `[height, width, 3]`, answers, and events."""
        found = self.page.evaluate("recorded")
        frames = [(each["time"], _pixels(each)) for each in found["frames"]]
        return frames, found["answers"], found["events"]


def _pixels(image):
    data = np.frombuffer(base64.b64decode(image["data"]), np.uint8)
    return data.reshape(image["height"], image["width"], 4)[..., :3]


def write_folder(folder, frames):
    """Write frames `{number: pixels}` as a folder of images; those between are black."""
    folder.mkdir()
    black = np.zeros_like(next(iter(frames.values())))
    for number in range(max(frames) + 1):
        pixels = cv2.cvtColor(frames.get(number, black), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number + 1:05d}.png"), pixels)
    return str(folder)


def write_y4m(path, frames, rate):
    """Write frames `[count, height, width, 3]` as an uncompressed film."""
    height, width = frames.shape[1:3]
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate}:1 Ip A1:1 C420\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path
