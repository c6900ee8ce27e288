"""Opens video files with PyAV (FFmpeg): a whitelist of containers, one video stream, limits."""

import contextlib
import errno
import os

from trn_jax.data.decode import FrameError
from trn_jax.errors import UserError

# Containers that hold the video themselves. FFmpeg opens a file by its content, so that playlists
# (HLS, DASH, ffconcat, SDP), which name other files or hosts, would be read whatever the file is
# called; so would pictures, and any text as a picture of a terminal.
_CONTAINERS = (
    *("asf", "avi", "dhav", "dv", "flv", "gif", "gxf", "h264", "hevc", "ivf", "live_flv", "m4v"),
    *("matroska", "mov", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "wtv"),
    "yuv4mpegpipe",
)
_HEAD = 256  # bytes that tell what a file is that holds no video
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
            "reading video files needs PyAV: pip install 'trn_jax[video]'; or turn the videos into "
            "folders of frames"
        ) from None
    return av


@contextlib.contextmanager
def opened(path, max_pixels):
    """Open a file.

    Args:
        path: the file; only a file, never a protocol such as `http:` or `concat:`.
        max_pixels: frames with more are refused before memory is taken for them.

    Yields:
        The container, its video stream, and the number of video streams it has. Of several, the
        stream is the one marked as default, then the one with the largest frames, then the first.

    Raises:
        FrameError: the file cannot be opened, is no video, or its frames are too large.
    """
    av = pyav()
    options = dict(
        # Of the decoders; FFmpeg decodes the first frames while it opens a file.
        options={"max_pixels": str(max_pixels)},
        container_options={"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS)},
    )
    with explained(path):
        try:
            # Titles in unknown encodings are of no interest.
            container = av.open(f"file:{path}", metadata_errors="ignore", **options)
        except TypeError:  # PyAV 19 knows that by itself
            container = av.open(f"file:{path}", **options)
    with container:
        streams = [stream for stream in container.streams.video if not _is_picture(stream)]
        if not streams:
            raise FrameError(f"{path} has no video, only {_kinds(container)}")
        stream = max(streams, key=_preference)
        context = stream.codec_context
        if context is None:
            raise FrameError(f"the video in {path} is of a codec that FFmpeg does not know")
        if context.width * context.height > max_pixels:
            raise FrameError(
                f"the frames of {path} have {context.width} x {context.height} pixels, more than "
                f"data.max_pixels={max_pixels}"
            )
        context.options = {"max_pixels": str(max_pixels)}
        # Videos are read side by side, so one thread for each is best.
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
    """The kinds of streams of a container without video, such as "a cover picture and audio"."""
    kinds = sorted({stream.type for stream in container.streams})
    kinds = ["a cover picture" if kind == "video" else kind for kind in kinds]
    kinds.sort(key=lambda kind: kind != "a cover picture")
    return " and ".join(kinds) or "nothing"


@contextlib.contextmanager
def explained(path):
    """Turns errors of FFmpeg into ones that name the file."""
    try:
        yield
    except pyav().FFmpegError as error:
        what = _what_it_is(path) or "is it a whole video?"
        message = error.strerror or error
        if error.errno == errno.EINVAL:  # also what FFmpeg says of formats off the whitelist
            message = "its content has no format of videos"
        raise FrameError(f"cannot read {path}: {message}; {what}") from None
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "out of memory"
        raise FrameError(f"cannot read {path}: {reason}") from None


def _what_it_is(path):
    """What a file is instead of a video, as far as its first bytes tell, or ""."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
        if head.startswith(_PICTURES) or head[8:12] == b"WEBP":
            return "it is a picture"
        if head.startswith(_SOUND) or head[8:12] == b"WAVE":
            return "it is sound"
        text = head.decode("utf-8-sig")
    except OSError:
        return ""
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not merely cut in the middle of a character
            return ""
        text = head[: error.start].decode("utf-8-sig")
    lines = text.strip().splitlines()
    if not lines or not all(line.isprintable() for line in lines[0].split("\t")):
        return ""
    return (
        f"it is a text ({lines[0][:40]!r} ...); playlists and scripts that name other "
        "files are not read"
    )


def check_file(path):
    """Check that a file is there, is a regular file and is not empty.

    Raises:
        FrameError: it is not; the message says what is there instead.
    """
    if os.path.isfile(path):
        if not os.path.getsize(path):
            raise FrameError(f"{path} is empty (0 bytes); fetch this video again")
        return
    if os.path.isdir(path):
        raise FrameError(
            f"{path} is a folder, but video files are expected; lists name one or the other "
            "throughout, as data.source says"
        )
    if os.path.exists(path):
        raise FrameError(f"{path} is no regular file, but a pipe, socket or device")
    if os.path.islink(path):
        raise FrameError(f"{path} is a link to {os.readlink(path)}, which is not there")
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
        raise FrameError(f"cannot read {path}: {error.strerror}") from None
    near = sorted(other for other in others if os.path.splitext(other)[0] == stem)
    hint = f" (found {near[0]!r})" if near else ""
    raise FrameError(f"video {name!r} not found in {folder}{hint}")


def decodable(container, stream, failed):
    """All frames that can be decoded, in order; errors are appended to `failed`."""
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


def length_size(context):
    """Bytes of the lengths that precede the units of H.264 and HEVC packets; 0: there are none."""
    place = {"h264": 4, "hevc": 21}.get(context.name)
    header = context.extradata or b""
    return (header[place] & 3) + 1 if place and len(header) > place and header[0] == 1 else 0


def fits(packet, length_size):
    """Whether the units of a packet fill it, which corrupt ones hardly ever do."""
    data, position, size = memoryview(packet), 0, packet.size
    while position < size:
        length = int.from_bytes(data[position : position + length_size], "big")
        if not length:
            return False
        position += length_size + length
    return position == size


def is_cut_avi(path):
    """Whether an AVI is shorter than its header says."""
    with open(path, "rb") as file:
        head = file.read(8)
    return int.from_bytes(head[4:], "little") + len(head) > os.path.getsize(path)
