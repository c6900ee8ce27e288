"""Prints answers and events as they come, and fills a folder of predictions."""

import itertools
import json
import sys

from trn_jax.errors import escaped
from trn_jax.prediction.detection import EventDetector, accepted_labels, events_of, settings_for
from trn_jax.prediction.live import Gap

_MAX_WIDTH = 60  # of the column of names, in characters


class Output:
    """Prints answers and events, as a table or as JSON lines, and fills a folder.

    Args:
        detection: arguments of `detection.settings_for`.
        multi_label: classes don't exclude each other.
        paths: `{video: its file or folder}`; "" for streams.
        folder: the `PredictionFolder` to fill, or `None`.
        films: the `render.Films` to make, or `None`.
        as_json: print JSON lines.
        top: classes shown; `None`: five of a single video, else one.
    """

    def __init__(self, detection, multi_label, paths, folder, *, as_json, top, films=None):
        self._json = as_json
        self._detection = detection
        self._multi_label = multi_label
        self._folder = folder
        self._films = films
        self._events = {}
        self._paths = paths
        self._others = {}  # paths of the videos of other processes
        self._top = top or (5 if len(paths) == 1 else 1)
        self._width = min(max(map(len, map(escaped, paths)), default=0), _MAX_WIDTH)
        self._num_unreadable = 0
        self._noted = set()

    def show(self, answers, *, is_new=False):
        """Print the answers of a video as they come, and its events; keep those that are new."""
        kept, events, detector, settings, problem = [], [], None, None, ""
        for answer in answers:
            last = answer
            self._note(answer.notes)
            if answer.problem:
                problem = answer.problem
                self._print_problem(answer)
                continue
            if settings is None:
                of_answer = answer.calibration, answer.class_names
                settings = settings_for(*of_answer, **self._detection)
            if self._json:
                self._print_json(answer, settings)
            if self._folder or not answer.is_window:
                kept.append(answer)
            if answer.is_window:
                if detector is None:
                    names = answer.class_names, settings
                    detector = EventDetector(answer.video, *names, multi_label=self._multi_label)
                events += self._print_events(detector.add(answer))
        if problem:
            self._num_unreadable += 1
            log(f"unreadable: {problem}")
        if detector is not None:
            events += self._print_events(detector.finish())
            if not events and not self._json and not problem:
                print(f"{escaped(last.video):{self._width}}  no event in {_clock(last.end)}")
        elif kept:
            names = last.class_names, settings
            events = events_of(kept, *names, multi_label=self._multi_label)
            if not self._json:
                self._print_whole(last, settings)
            if self._folder and last.end is None:
                log(f"{last.video}: unknown length, so it is not in events.csv; see --frame-rate")
        if self._folder and kept:
            self._events[last.video] = sorted(events, key=lambda event: (event.start, event.end))
            if is_new and not problem:
                self._folder.write(kept, self._paths[last.video])
            if self._films and not problem:
                is_none = not last.is_window and self._is_none(last, settings)
                self._films.render(kept, self._events[last.video], is_none=is_none)

    def keep(self, answers, path):
        """Keep the events of a video that another process has done."""
        first = answers[0]
        settings = settings_for(first.calibration, first.class_names, **self._detection)
        names = first.class_names, settings
        self._others[first.video] = path
        self._events[first.video] = events_of(answers, *names, multi_label=self._multi_label)

    def show_stream(self, answers):
        """Print the answers of a stream; returns whether Ctrl-C ended it."""
        stopped = False

        def until_stopped():
            nonlocal stopped
            try:
                for answer in answers:
                    if isinstance(answer, Gap):
                        self._print_gap(answer)
                    else:
                        yield answer
            except KeyboardInterrupt:
                stopped = True

        found = until_stopped()
        first = next(found, None)
        if first is not None:
            self.show(itertools.chain([first], found), is_new=True)
        return stopped

    def finish(self):
        """Write the events of all videos; returns the exit status."""
        if self._folder:
            self._folder.write_events(self._events, self._paths | self._others)
            log(f"scores, captions and events.csv are in {self._folder.path}")
        if self._num_unreadable:
            log(f"{self._num_unreadable} of {len(self._paths)} videos could not be read")
        num_failed = self._films.num_failed if self._films else 0
        if num_failed:
            log(f"{num_failed} of {len(self._paths)} videos could not be rendered")
        return 1 if self._num_unreadable or num_failed else 0

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

    def _print_json(self, answer, settings):
        more = {}
        if answer.age is not None:
            more = {"age": round(answer.age, 3), "dropped": answer.dropped}
        if settings.rejects and not answer.is_window:
            more = {"none_of_these": self._is_none(answer, settings)}
        top = [{"label": label, "score": score} for label, score in answer.top(self._top)]
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


def log(message):
    """Print a message to standard error, safely."""
    print(escaped(message), file=sys.stderr, flush=True)
