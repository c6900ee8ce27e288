"""Streams that end before the end that was announced."""

import http.server
import io
import sys
import threading

import numpy as np
import painted
import pytest

from trn_jax.data.decode import FrameError
from trn_jax.data.streams import StreamVideo

_FAST_START = {"movflags": "faststart"}  # the header first, as a web server has it


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Function that gives the bytes of a film of 60 frames in a container."""
    folder = tmp_path_factory.mktemp("film")
    # Noise, as FFmpeg holds small files in its buffer, and can seek in them.
    frames = np.random.default_rng(0).integers(0, 256, (60, 96, 160, 3), np.uint8)

    def written(name):
        muxer = _FAST_START if name == "film.mp4" else None
        return painted.write(folder / name, frames, codec="mpeg4", muxer=muxer, g=5).read_bytes()

    return written


@pytest.fixture
def serve():
    """Function that serves a share of some bytes, but announces all of them; returns the URL."""
    servers = []

    def serving(content, share):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: round(share * len(content))])

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/film"

    yield serving
    for server in servers:
        server.shutdown()
        server.server_close()


def read(text):
    """Read a stream to its end; returns the number of its frames."""
    with StreamVideo(text) as video:
        assert not video.is_live
        num_frames = sum(1 for _ in video.in_order())
        assert not video.loss
        video.check_whole()
    return num_frames


@pytest.mark.parametrize(
    ("name", "expected"),
    [("film.mp4", r"\d\d of 60 frames"), ("film.mkv", r"1\.\d of 2\.4 s"), ("film.ts", r"frames")],
)
def test_a_lost_connection_is_no_end(film, serve, name, expected):
    assert read(serve(film(name), 1)) == 60
    url = serve(film(name), 0.6)
    with pytest.raises(FrameError, match=f"{url} .*{expected}"):
        read(url)


def test_a_header_at_the_end_needs_the_file(film, serve):
    url = serve(film("late.mp4"), 1)  # from a server that can't seek
    with pytest.raises(FrameError, match=f"{url} .* 0 of 60 .*the file itself"):
        read(url)


def test_standard_input_that_lacks_listed_frames(film, monkeypatch):
    content = film("film.mp4")
    for share, is_whole in ((1, True), (0.6, False)):
        piped = io.BytesIO(content[: round(share * len(content))])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))
        if is_whole:
            assert read("-") == 60
        else:
            with pytest.raises(FrameError, match=r"standard input .*\d\d of 60 frames"):
                read("-")
