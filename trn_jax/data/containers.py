"""Opens video files with PyAV (FFmpeg): a whitelist of containers, one video stream, limits."""

import contextlib
import errno
import os

from trn_jax.data.decode import FrameError
from trn_jax.errors import UserError

# Containers that hold the video themselves. FFmpeg detects formats by content, so under any name it
# would also open playlists (HLS, DASH, ffconcat, SDP), which name other files or hosts, images, and
# text as an image of a terminal.
CONTAINERS = (
    *("asf", "avi", "dhav", "dv", "flv", "gif", "gxf", "h264", "hevc", "ivf", "live_flv", "m4v"),
    *("matroska", "mov", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "wtv"),
    "yuv4mpegpipe",
)
_COMPLETE = "is the file complete?"
_HEAD = 256  # bytes read to name the type of a file without video
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\x00", b"MM\x00*")
_SOUND = (b"ID3", b"fLaC", b"\xff\xfb")


def pyav():
    """The module `av`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise UserError(
            "reading video files needs PyAV: pip install 'trn_jax[video]'; or extract the frames "
            "elsewhere"
        ) from None
    return av


@contextlib.contextmanager
def opened(path, max_pixels):
    """Open a file.

    Args:
        path: the file; never a protocol such as `http:` or `concat:`.
        max_pixels: frames with more pixels are rejected before memory is allocated.

    Yields:
        The container, its video stream, and the number of video streams. Of several streams: the
        default one, else the one with the largest frames, else the first.

    Raises:
        FrameError: the file can't be opened, is no video, or its frames are too large.
    """
    limits = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    with opened_by(path, f"file:{path}", max_pixels, container_options=limits) as found:
        yield found


@contextlib.contextmanager
def opened_by(path, place, max_pixels, *, advice=_COMPLETE, **options):
    """Open whatever PyAV opens; see `opened`.

    Args:
        path: its name in messages.
        place: what PyAV is given.
        max_pixels: frames with more pixels are rejected before memory is allocated.
        advice: next step in messages.
        **options: further arguments of `av.open`.
    """
    # For the decoders: FFmpeg decodes the first frames as it opens a file.
    options |= dict(options={"max_pixels": str(max_pixels)})
    with explained(path, advice):
        try:
            # Titles in unknown encodings must not fail.
            container = pyav().open(place, metadata_errors="ignore", **options)
        except TypeError:  # PyAV 19 ignores them by itself
            container = pyav().open(place, **options)
    with container:
        streams = [stream for stream in container.streams.video if not _is_picture(stream)]
        if not streams:
            raise FrameError(f"{path} has no video, only {_kinds(container)}")
        stream = max(streams, key=_preference)
        context = stream.codec_context
        if context is None:
            raise FrameError(f"FFmpeg has no decoder for the video in {path}")
        if context.width * context.height > max_pixels:
            raise FrameError(
                f"the frames of {path} have {context.width} x {context.height} pixels, more than "
                f"data.max_pixels={max_pixels}"
            )
        context.options = {"max_pixels": str(max_pixels)}
        # Many videos are read at a time, so one thread each is fastest.
        stream.thread_type = "NONE"
        yield container, stream, len(streams)


def _is_picture(stream):
    """Whether a video stream is a cover picture or the thumbnails of chapters."""
    kinds = pyav().stream.Disposition
    return bool(stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails))


def _preference(stream):
    context = stream.codec_context
    pixels = context.width * context.height if context else -1
    return bool(stream.disposition & pyav().stream.Disposition.default), pixels


def _kinds(container):
    """Types of the streams of a container without video, such as "a cover picture and audio"."""
    kinds = sorted({stream.type for stream in container.streams})
    kinds = ["a cover picture" if kind == "video" else kind for kind in kinds]
    kinds.sort(key=lambda kind: kind != "a cover picture")
    return " and ".join(kinds) or "nothing"


@contextlib.contextmanager
def explained(path, advice=_COMPLETE):
    """Convert errors of FFmpeg to `FrameError`s that name the file and a next step."""
    try:
        yield
    except pyav().FFmpegError as error:
        what = _what_it_is(path) or advice
        message = error.strerror or error
        if isinstance(error, pyav().error.ExitError):  # what PyAV's timeouts raise
            message = "no answer in time"
        if error.errno == errno.EINVAL:  # also for formats off the whitelist
            message = "unknown video format"
        raise FrameError(f"can't read {path}: {message}; {what}") from None
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "out of memory"
        raise FrameError(f"can't read {path}: {reason}") from None


def _what_it_is(path):
    """The type of a file that is no video, by its first bytes, or ""."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if head.startswith(_PICTURES) or head[8:12] == b"WEBP":
            return "it is an image"
        if head.startswith(_SOUND) or head[8:12] == b"WAVE":
            return "it is audio"
        text = head.decode("utf-8-sig")
    except OSError:
        return ""
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # more than a character cut at the end
            return ""
        text = head[: error.start].decode("utf-8-sig")
    lines = text.strip().splitlines()
    if not lines or not all(line.isprintable() for line in lines[0].split("\t")):
        return ""
    return (
        f"it is text ({lines[0][:40]!r} ...); playlists and scripts that name other files are not "
        "read"
    )


def check_file(path):
    """Check that a file exists, is a regular file and is not empty.

    Raises:
        FrameError: it is not; the message names what is there instead.
    """
    if os.path.isfile(path):
        if not os.path.getsize(path):
            raise FrameError(f"{path} is empty (0 bytes); download this video again")
        return
    if os.path.isdir(path):
        raise FrameError(
            f"{path} is a folder, but data.source='videos' expects video files; a list names only "
            "files or only folders"
        )
    if os.path.exists(path):
        raise FrameError(f"{path} is a pipe, socket or device, expected a regular file")
    if os.path.islink(path):
        raise FrameError(f"{path} is a link to {os.readlink(path)}, which doesn't exist")
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        raise FrameError(
            f"folder {folder} not found; check data_dir and data.frames, or the first column of "
            "the list"
        )
    stem = os.path.splitext(name)[0]
    try:
        others = os.listdir(folder or ".")
    except OSError as error:
        raise FrameError(f"can't read {path}: {error.strerror}") from None
    near = sorted(other for other in others if os.path.splitext(other)[0] == stem)
    hint = f" (found {near[0]!r})" if near else ""
    raise FrameError(f"video {name!r} not found in {folder}{hint}")


def decodable(container, stream, failed):
    """Decode all frames that decode, in order; appends errors to `failed`."""
    error = pyav().FFmpegError
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except error as problem:
            failed.append(problem)
            packet = None
        if packet is None:
            return
        try:
            yield from packet.decode()
        except error as problem:
            failed.append(problem)
