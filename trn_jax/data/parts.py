"""Parts of video files: the frames of an interval of time, as a video."""

import functools

import numpy as np

from trn_jax.data.decode import CorruptVideo, FrameError, Video

_MAX_SECONDS = 1e9  # larger times are none


def milliseconds(seconds):
    """Seconds as an integer number of milliseconds, the unit that times are compared in."""
    return round(float(np.rint(seconds * 1000)))


def decimal(seconds):
    """Seconds as text with three decimals, such as `"12.500"`."""
    whole, rest = divmod(milliseconds(seconds), 1000)
    return f"{whole}.{rest:03d}"


def is_interval(start, end):
    """Whether seconds make an interval of at least a millisecond."""
    return 0 <= start < end <= _MAX_SECONDS and milliseconds(start) < milliseconds(end)


def frames_between(times, start, end):
    """The frames of a part, a `range` of their numbers.

    Those at `start <= time < end`, all rounded to milliseconds: tables have no finer times, and a
    frame at 10 / 30 s is that at 0.333.

    Args:
        times: of all frames in ascending order, in seconds, float64 `[frames]`.
        start: in seconds.
        end: in seconds.
    """
    edges = [milliseconds(start), milliseconds(end)]
    first, last = np.searchsorted(np.rint(times * 1000), edges).tolist()
    return range(first, last)


class VideoPart(Video):
    """The frames of an interval of time of a video file, numbered from 0.

    Args:
        opening: opens the `videos.VideoFile`.
        start: in seconds from the first frame of the file.
        end: in seconds; the end of the file if it comes first.

    Raises:
        FrameError: no frame is in that part, or the file has no times.
    """

    def __init__(self, opening, start, end):
        self._video = opening()
        self._interval = start, end
        name = f"the part from {decimal(start)} to {decimal(end)} s of {self._video.path}"
        self.path = f"{self._video.path} [{decimal(start)}-{decimal(end)}]"
        try:
            frames = frames_between(self._video.times, start, end)
            length = self._video.seconds
            if not frames:
                raise FrameError(
                    f"{name} has no frame: that video lasts {decimal(length)} s and has "
                    f"{self._video.num_frames} frames"
                )
        except BaseException:
            self._video.__exit__(None, None, None)
            raise
        self.num_frames, self._first = len(frames), frames[0]
        self._note = self._loss = ""
        if milliseconds(end) > milliseconds(length):
            self._note = f"{name} ends after that video, which lasts {decimal(length)} s"

    def __exit__(self, *details):
        self._video.__exit__(*details)

    @property
    def times(self):
        """When its frames are shown, in seconds from the first frame of the file."""
        return self._video.times[self._first : self._first + self.num_frames]

    @property
    def listed_times(self):
        """See `Video.listed_times`."""
        times = self.times
        return times - times[0]

    @property
    def seconds(self):
        """See `Video.seconds`: until the next frame of the file, or the end of it."""
        after = self._first + self.num_frames
        known = self._video.times
        end = known[after] if after < len(known) else self._video.seconds
        return float(end - self.times[0])

    @property
    def loss(self):
        """See `Video.loss`; of the whole file."""
        return self._loss or self._video.loss

    @property
    def notes(self):
        """See `Video.notes`."""
        own = [each for each in (self._loss, self._note) if each]
        return (*self._video.notes, *own)

    def shown_at(self, times):
        """See `Video.shown_at`; from a corrupt frame on, with the frames that decode."""
        times, last = list(times), -1.0
        try:
            for last, frame in super().shown_at(times):
                yield last, frame
            return
        except CorruptVideo as error:
            decodable = error.decodable
        with decodable() as part:
            yield from part.shown_at([time for time in times if time > last])
            self._loss = part.loss

    def _decode(self, wanted, memory, draft):
        self._check_within(wanted)
        numbers = [self._first + number for number in wanted]
        try:
            for number, frame in self._video._decode(numbers, memory, draft):
                yield number - self._first, frame
        except CorruptVideo as error:
            again = functools.partial(VideoPart, error.decodable, *self._interval)
            raise CorruptVideo(str(error), again) from None
