"""Prints answers and events as they come, and fills a folder of predictions."""

import dataclasses
import json
import time
from collections.abc import Callable

from trn_jax.errors import escaped, log
from trn_jax.evaluation.events import Event
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.detection import (
    DetectionSettings,
    EventDetector,
    accepted_labels,
    events_of,
    settings_for,
)
from trn_jax.prediction.live import Gap
from trn_jax.prepare.folder_lock import locked_folder

SECONDS_BETWEEN_PIECES = 30.0  # of a stream, that a power failure may cost
_MAX_WIDTH = 60  # of the column of names, in characters


@dataclasses.dataclass
class _Shown:
    """A video whose answers come one after the other."""

    last: Answer | None = None
    kept: list[Answer] = dataclasses.field(default_factory=list)  # that are not written yet
    events: list[Event] = dataclasses.field(default_factory=list)
    settings: DetectionSettings | None = None
    detector: EventDetector | None = None
    explained: dict | None = None
    problem: str = ""
    num_pieces: int = 0  # that are written

    @property
    def in_order(self):
        """The events, sorted by start."""
        return sorted(self.events, key=lambda event: (event.start, event.end))


class Output:
    """Prints answers and events, as a table or as JSON lines, and fills a folder.

    Args:
        detection: arguments of `detection.settings_for`.
        multi_label: classes don't exclude each other.
        paths: `{video: its file or folder}`; "" for streams.
        folder: the `PredictionFolder` to fill, or `None`.
        films: the `render.Films` to make, or `None`.
        explained: function of an `Answer` about a whole video, whose result is a dict for JSON, and
            one of that result, a line of text; or `None`.
        as_json: print JSON lines.
        top: classes shown; `None`: five of a single video, else one.
        others: function of the names of the videos whose events are known, which returns pairs of
            the answers and the path of those that other processes have done meanwhile.
    """

    def __init__(
        self,
        detection,
        multi_label,
        paths,
        folder,
        *,
        as_json,
        top,
        films=None,
        explained: tuple[Callable, Callable] | None = None,
        others: Callable | None = None,
    ):
        self._json = as_json
        self._detection = detection
        self._multi_label = multi_label
        self._folder = folder
        self._films = films
        self._explained = explained
        self._events: dict[str, list[Event]] = {}
        self._paths = paths
        self._others = others
        self._other_paths: dict[str, str] = {}  # of the videos of other processes and commands
        self._top = top or (5 if len(paths) == 1 else 1)
        self._width = min(max(map(len, map(escaped, paths)), default=0), _MAX_WIDTH)
        self._num_unreadable = 0
        self._noted: set[str] = set()

    def show(self, answers, *, is_new=False):
        """Print the answers of a video as they come, and its events; keep those that are new."""
        video = _Shown()
        for answer in answers:
            self._add(video, answer)
        self._end(video)
        if self._folder and video.kept:
            name = video.kept[0].video
            self._events[name] = video.in_order
            if is_new and not video.problem:
                self._folder.write(video.kept, self._paths[name])
            if self._films and not video.problem:
                last = video.kept[-1]
                is_none = not last.is_window and self._is_none(last, video.settings)
                self._films.render(video.kept, video.in_order, is_none=is_none)

    def show_stream(self, answers):
        """Print the answers of a stream as they come, and its events.

        They are written every half a minute, so that little is lost if the process is killed, and
        at the end, whatever ends it.
        """
        video, due = _Shown(), time.monotonic() + SECONDS_BETWEEN_PIECES
        try:
            for answer in answers:
                if isinstance(answer, Gap):
                    self._print_gap(answer)
                else:
                    self._add(video, answer)
                if self._folder and time.monotonic() >= due:
                    self._write_piece(video)
                    self._write_events(known=self._events)
                    due = time.monotonic() + SECONDS_BETWEEN_PIECES
        finally:
            self._end(video)
            if self._folder:
                self._write_piece(video)

    def keep(self, answers, path):
        """Keep the events of a video that another process or an earlier command has done."""
        first = answers[0]
        settings = settings_for(first.calibration, first.class_names, **self._detection)
        names = first.class_names, settings
        self._other_paths[first.video] = path
        self._events[first.video] = events_of(answers, *names, multi_label=self._multi_label)

    def finish(self):
        """Write the events of all videos; returns the exit status."""
        if self._folder:
            # Streams of other processes may be longer than when they were read.
            paths = self._paths | {name: path for name, path in self._other_paths.items() if path}
            self._write_events(known=paths)
            log(f"scores, captions and events.csv are in {self._folder.path}")
        if self._num_unreadable:
            log(f"{self._num_unreadable} of {len(self._paths)} videos could not be read")
        num_failed = self._films.num_failed if self._films else 0
        if num_failed:
            log(f"{num_failed} of {len(self._paths)} videos could not be rendered")
        return 1 if self._num_unreadable or num_failed else 0

    def _add(self, video, answer):
        """Print an answer and the events that end with it."""
        self._note(answer.notes)
        if answer.problem:
            video.problem = answer.problem
            self._print_problem(answer)
            return
        video.last = answer
        if self._folder or not answer.is_window:
            video.kept.append(answer)  # first: a signal may interrupt what follows
        if self._explained and not answer.is_window:
            video.explained = self._explained[0](answer)
        if video.settings is None:
            of_answer = answer.calibration, answer.class_names
            video.settings = settings_for(*of_answer, **self._detection)
        if self._json:
            self._print_json(answer, video)
        if answer.is_window:
            if video.detector is None:
                names = answer.class_names, video.settings
                video.detector = EventDetector(answer.video, *names, multi_label=self._multi_label)
            video.events += self._print_events(video.detector.add(answer))

    def _end(self, video):
        """Print what is known at the end of a video."""
        if video.problem:
            self._num_unreadable += 1
            log(f"unreadable: {video.problem}")
        last = video.last
        if video.detector is not None and self._explained:
            log(f"{last.video} has a timeline, which isn't explained; add --whole")
        if video.detector is not None:
            video.events += self._print_events(video.detector.finish())
            if not video.events and not self._json and not video.problem:
                print(f"{escaped(last.video):{self._width}}  no event in {_clock(last.end)}")
        elif video.kept:
            names = last.class_names, video.settings
            video.events = events_of(video.kept, *names, multi_label=self._multi_label)
            if not self._json:
                self._print_whole(last, video.settings)
                if self._explained:
                    line = escaped(self._explained[1](video.explained))
                    print(f"{'':{self._width}}  {line}", flush=True)
            if self._folder and last.end is None:
                log(f"{last.video}: unknown length, so it is not in events.csv; see --frame-rate")

    def _write_piece(self, video):
        """Write what has come of a stream since the last piece."""
        if video.last is not None:
            self._events[video.last.video] = video.in_order
        if video.kept:
            self._folder.write(video.kept, "", piece=video.num_pieces)
            video.num_pieces, video.kept = video.num_pieces + 1, []

    def _write_events(self, known):
        """Write the events of all videos, with those that other processes have done so far."""
        # Whichever process writes last has read the scores of all that wrote before.
        with locked_folder(self._folder.path, wait=True):
            for answers, path in self._others(known) if self._others else ():
                self.keep(answers, path)
            self._folder.write_events(self._events, self._paths | self._other_paths)

    def _note(self, notes):
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                log(note)

    def _print_gap(self, gap):
        if self._json:
            _print_line(
                kind="gap", video=gap.video, start=round(gap.start, 3), end=round(gap.end, 3)
            )
        log(f"{gap.video} broke for {gap.end - gap.start:.1f} s: {gap.reason}")

    def _print_whole(self, answer, settings):
        name, best = escaped(answer.video), escaped(answer.label)
        none = f"none of these (best: {best})" if self._is_none(answer, settings) else ""
        for label in answer.top_labels(self._top):
            text = none or escaped(answer.class_names[label])
            print(f"{name:{self._width}}  {answer.decisive[label]:.3f}  {text}", flush=True)
            name = none = ""

    def _is_none(self, answer, settings):
        """Whether thresholds reject a whole video."""
        labels = accepted_labels(answer, settings, multi_label=self._multi_label)
        return settings.rejects and not labels

    def _print_events(self, events):
        for event in events:
            if self._json:
                _print_line(kind="event", **_as_dict(event))
                continue
            name, label = escaped(event.video), escaped(event.label)
            times = f"{_clock(event.start)} - {_clock(event.end)}"
            print(f"{name:{self._width}}  {times}  {event.score:.3f}  {label}", flush=True)
        return events

    def _print_problem(self, answer):
        if self._json:
            _print_line(kind="problem", video=answer.video, problem=answer.problem)

    def _print_json(self, answer, video):
        more: dict = {}
        settings = video.settings
        if answer.age is not None:
            more = {"age": round(answer.age, 3), "dropped": answer.dropped}
        if settings.rejects and not answer.is_window:
            more = {"none_of_these": self._is_none(answer, settings)}
        top = [{"label": label, "score": score} for label, score in answer.top(self._top)]
        if video.explained:
            more["explanation"] = video.explained
        if answer.calibrated is not None:
            for entry, label in zip(top, answer.top_labels(self._top), strict=True):
                entry["calibrated"] = float(answer.calibrated[label])
        kind = "window" if answer.is_window else "video"
        end = None if answer.end is None else round(answer.end, 3)
        _print_line(
            kind=kind, video=answer.video, start=round(answer.start, 3), end=end, top=top, **more
        )


def _as_dict(event):
    return dict(
        video=event.video,
        start=round(event.start, 3),
        end=round(event.end, 3),
        label=event.label,
        score=event.score,
    )


def _print_line(**values):
    print(json.dumps(values), flush=True)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds, 1), 60)
    return f"{int(minutes) // 60}:{int(minutes) % 60:02d}:{seconds:04.1f}"
