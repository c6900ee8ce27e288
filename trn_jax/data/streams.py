"""Streams: cameras, URLs and standard input. URLs are never read from a list or a configuration."""

import contextlib
import os
import re
import sys

from trn_jax.data.containers import CONTAINERS, decodable, explained, opened_by, pyav
from trn_jax.data.decode import MAX_PIXELS, FrameError
from trn_jax.data.ordered_videos import OrderedVideo, rate_of

STANDARD_INPUT = "-"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE_URL = re.compile(r"file://", re.IGNORECASE)
_LOGIN = re.compile(r"(://)([^/?#\s@:]*)(:[^/?#\s]*)?@(?=[^/?#\s@]*(?:[/?#\s]|$))")
# A slash in a password should be escaped; what follows a host and a colon is a number otherwise.
_ODD_LOGIN = re.compile(r"(://[^/?#\s@:]*:)(?!\d*(?:[/?#\s]|$))[^\s@]*@")
_SECRET = re.compile(
    r"(?i)([?&;](?:[\w.-]*(?:pass|pwd|user|usr|login|token|key|secret|sig|auth)[\w.-]*)=)[^&;#\s]+"
)
# What a URL may lead to: other places on the network, but never local files.
_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,srtp,rtsp,rtsps,rtmp,rtmps,srt,crypto,data"
_FORMATS = (*CONTAINERS, "hls", "rtsp", "rtp", "sdp", "mpjpeg", "mjpeg")
_CAMERA = re.compile(r"[0-9]{1,4}")
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}  # formats of FFmpeg
ADVICE = "does the stream run?"
_SECONDS_TO_OPEN, _SECONDS_TO_READ = 20.0, 20.0


def is_url(text):
    """Whether a text is a URL, such as `rtsp://camera/1`."""
    return bool(_URL.match(text))


def is_file_url(text):
    """Whether a text is a URL of a file of this machine, `file:///clips/a.mp4`: no stream."""
    return bool(_FILE_URL.match(text))


def masked(text):
    """A text with passwords and keys in URLs as `***`, to print or to store.

    A user name stays only beside a password, `rtsp://user:***@camera/1`: it may be a key.
    """
    text = _LOGIN.sub(lambda m: f"{m[1]}{m[2]}:***@" if m[3] else f"{m[1]}***@", text)
    return _SECRET.sub(r"\1***", _ODD_LOGIN.sub(r"\1***@", text))


def is_stream(text):
    """Whether a source is a camera (a number), a URL or standard input (`-`), not a path."""
    if os.path.exists(text) or is_file_url(text):
        return False
    return text == STANDARD_INPUT or bool(_CAMERA.fullmatch(text)) or is_url(text)


@contextlib.contextmanager
def open_stream(text, max_pixels=MAX_PIXELS):
    """Open a stream.

    Args:
        text: the number of a camera, a URL, or `-`.
        max_pixels: frames with more pixels are rejected before memory is allocated.

    Yields:
        The container, its video stream, and the number of video streams.

    Raises:
        FrameError: it can't be opened, or has no video.
    """
    if text == STANDARD_INPUT:
        if sys.stdin is None:
            raise FrameError("standard input is closed; give a video, such as with < clip.mp4")
        formats = {"format_whitelist": ",".join(CONTAINERS)}
        # Without a buffer, whose lock would be held by a thread that waits for a stalled pipe.
        pipe = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        with _opened("standard input", pipe, max_pixels, container_options=formats) as found:
            yield found
    elif is_url(text):
        limits = {"protocol_whitelist": _PROTOCOLS, "format_whitelist": ",".join(_FORMATS)}
        if text.startswith("rtsp"):
            limits["rtsp_transport"] = "tcp"  # packets lost on the way would be lost frames
        timeout = _SECONDS_TO_OPEN, _SECONDS_TO_READ
        options = dict(container_options=limits, timeout=timeout)
        with _opened(masked(text), text, max_pixels, **options) as found:
            yield found
    else:
        name, kind = _camera(int(text))
        with _opened(f"camera {text} ({name})", name, max_pixels, format=kind) as found:
            yield found


def _opened(name, place, max_pixels, **options):
    return opened_by(name, place, max_pixels, advice=ADVICE, **options)


def _camera(number):
    """Name and format of a camera for FFmpeg."""
    kind = _CAMERAS.get(sys.platform)
    if kind is None or kind not in pyav().format.formats_available:
        raise FrameError(f"camera {number}: PyAV reads no cameras on {sys.platform}")
    if kind != "v4l2":
        return (str(number) if kind == "avfoundation" else f"video={number}"), kind
    name = f"/dev/video{number}"
    if not os.path.exists(name):
        there = sorted(each for each in os.listdir("/dev") if re.fullmatch(r"video\d+", each))
        found = ", ".join(each.removeprefix("video") for each in there) or "none"
        raise FrameError(f"camera {number} not found ({name}); cameras here: {found}")
    return name, kind


class _Arrival:
    """The container of a stream, whose packets are counted as they come.

    Args:
        container: of PyAV.

    Attributes:
        num_packets: number of packets of the video that have come.
        is_over: no more will come.
        error: what ended them, an error of FFmpeg; `None` at their end.
    """

    def __init__(self, container):
        self._container = container
        self.num_packets, self.is_over, self.error = 0, False, None

    def demux(self, stream):
        """The packets of the video; errors end them."""
        try:
            for packet in self._container.demux(stream):
                self.num_packets += bool(packet.size)
                yield packet
        except pyav().FFmpegError as error:
            self.error = error
        self.is_over = True


class StreamVideo(OrderedVideo):
    """A stream that ends, such as standard input, as a video that is read once, in order.

    Args:
        text: see `open_stream`.
        max_pixels: frames with more pixels are not decoded.
    """

    _is_read = False

    def __init__(self, text, *, max_pixels=MAX_PIXELS):
        super().__init__(masked(text), max_pixels=max_pixels)
        self._open = contextlib.ExitStack()
        self._opened = self._open.enter_context(open_stream(text, max_pixels))
        container, self._stream, self._num_streams = self._opened
        self._arrival = _Arrival(container)
        self.rate = rate_of(self._stream)

    @property
    def is_live(self):
        """Whether it has no end of its own."""
        container, *_ = self._opened
        # A server that sends a file says how large it is, also where its length is unknown; the
        # size of a playlist says nothing.
        is_file = container.size > 0 and "hls" not in container.format.name
        return self.path != STANDARD_INPUT and not container.duration and not is_file

    def _count(self, num_frames, num_failed):
        self.num_frames, self.num_lost = num_frames, num_failed

    @contextlib.contextmanager
    def _reopened(self):
        _, *others = self._opened
        self._is_read = True
        try:
            yield self._arrival, *others
        finally:
            self._is_read = False

    def _decoded_from(self, step):
        yield from super()._decoded_from(step)
        if not self.num_frames:
            self.check_whole()

    def check_whole(self):
        """Check that a stream that was read did not end early.

        Raises:
            FrameError: the connection was lost, or fewer frames came than an MP4 lists.
        """
        arrival = self._arrival
        num_left = len(self._stream.index_entries) - arrival.num_packets
        is_mp4 = "mp4" in self._opened[0].format.name  # others may list what they don't have
        if not arrival.is_over or not (arrival.error or (is_mp4 and num_left > 0)):
            return
        is_pipe = self.path == STANDARD_INPUT
        name = "standard input" if is_pipe else f"the connection to {self.path}"
        reason = "no answer in time" if isinstance(arrival.error, pyav().error.ExitError) else ""
        reason = reason or getattr(arrival.error, "strerror", None) or "end of file"
        advice = "give the whole video" if is_pipe else "try again, or download the video first"
        if not self.num_frames:  # MP4 with its header at its end needs a place to seek in
            advice = "if its header is at its end, give the file itself"
        raise FrameError(f"{name} ended early ({reason}): {self._share_come()}; {advice}")

    def _share_come(self):
        """How much of the video has come, such as "254 of 432 frames came"."""
        num_listed, seconds = self._stream.frames, self.seconds_shown or 0.0
        if num_listed > self.num_frames:
            return f"{self.num_frames} of {num_listed} frames came"
        total = (self._opened[0].duration or 0) / pyav().time_base
        if total > seconds:
            return f"{seconds:.1f} of {total:.1f} s came"
        return f"{self.num_frames} frames ({seconds:.1f} s) came, but more was announced"

    def __exit__(self, *_):
        # A thread that waits for a stalled pipe still reads it.
        if not self._is_read:
            self._open.close()

    def arriving(self):
        """Decode the frames as they come: frames of PyAV, which `upright` converts."""
        container, stream, _ = self._opened
        with explained(self.path, ADVICE):
            yield from decodable(container, stream, [])

    def upright(self, frame):
        """A frame of `arriving` as it is shown, uint8 `[height, width, 3]` in RGB."""
        if not any(self._size):
            self._size = frame.width, frame.height
        return self._pixels(frame)
