"""`trn-jax predict`: the classes of videos, with times."""

import dataclasses
import itertools
import json
import sys

from trn_jax.cli.arguments import add_json, add_sampling, positive, sampling_of
from trn_jax.errors import UserError, escaped

_DETECTION = ("threshold", "hysteresis", "smoothing", "min_seconds")


def add_predict(commands):
    """`trn-jax predict SOURCE... --checkpoint=PATH`."""
    parser = commands.add_parser(
        "predict",
        help="classes of videos, and when they happen",
        description="Predict the classes of videos. A short video gets one answer, with the clips "
        "and the scores of an evaluation; one that lasts more than three times as long as training "
        "examples, and a stream, gets a timeline of windows, and the events in it. Exits with 1 "
        "if a video could not be read.",
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="video, folder (of videos, frames or records), list (.txt, .csv, .tsv, .json), "
        "pattern such as 'clips/*.mp4', number of a camera, URL, or - for standard input",
    )
    add("--checkpoint", help="checkpoint or working directory of a training, <directory>@best")
    add_sampling(parser)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--timeline", action="store_true", help="windows of every video")
    mode.add_argument("--whole", action="store_true", help="one answer per video, however long")
    add(
        "--every",
        type=float,
        help="seconds between windows; default: a quarter of a window, or a segment of TSN and TRN",
    )
    add(
        "--threshold",
        type=float,
        help="score that an event and the class of a video reach; default: those of the "
        "calibration, see `trn-jax calibrate`; without one, 0.5, for events only",
    )
    add("--no-calibration", action="store_true", help="use scores and thresholds as without one")
    add("--hysteresis", type=float, help="share of it at which it ends; default: 0.7")
    add("--smoothing", type=positive, help="windows averaged, an odd number; default: 1")
    add("--min-seconds", type=float, help="an event's score stays up; default: 0.15 of a window")
    add("--no-extend", action="store_true", help="events may be shorter than a window")
    add("--top", type=positive, help="classes shown; default: 5 of a single video, else 1")
    add("--to", metavar="DIR", help="folder for scores, events.csv and captions; resumable")
    add("--from-scores", metavar="DIR", help="find the events again in the scores of a folder")
    add("--duration", type=float, help="seconds after which a live stream ends; default: never")
    add("--num-processes", type=positive, default=1, help="of which each predicts a share")
    add("--process-id", type=int, default=0, help="index of this process, from 0")
    add_json(parser)
    parser.set_defaults(run=_predict, stopped="stopped; the same command continues with --to")


def _predict(arguments):
    if not 0 <= arguments.process_id < arguments.num_processes:
        raise UserError(
            f"--process-id={arguments.process_id}: expected 0..{arguments.num_processes - 1} with "
            f"--num-processes={arguments.num_processes}"
        )
    if not (arguments.duration is None or arguments.duration > 0):
        raise UserError(f"--duration={arguments.duration}: expected a positive number of seconds")
    if arguments.from_scores:
        return _from_scores(arguments)
    if not arguments.checkpoint or not arguments.sources:
        raise UserError(
            "predict needs videos and a model: trn-jax predict clip.mp4 --checkpoint=runs/mine"
        )
    from trn_jax.data import memory

    memory.keep()  # before the other imports, which start threads
    from trn_jax.data.streams import is_stream
    from trn_jax.prediction.detection import settings_for
    from trn_jax.prediction.saved import PredictionFolder

    settings_for(None, (), **_detection(arguments))  # raises before anything is read
    predictor = _predictor(arguments)
    streams = [each for each in arguments.sources if is_stream(each)]
    others = [each for each in arguments.sources if not is_stream(each)]
    all_inputs = predictor.find(others)
    inputs = all_inputs[arguments.process_id :: arguments.num_processes]
    folder = PredictionFolder(arguments.to, predictor.about) if arguments.to else None
    paths = {each.name: each.record.path for each in inputs} | dict.fromkeys(streams, "")
    output = _Output(arguments, predictor.multi_label, paths, folder)
    done = {}
    if folder:
        done = _done(folder, inputs)
        if done:
            _log(f"{len(done)} of {len(inputs)} videos are done, in {arguments.to}")
    answers = predictor([each for each in inputs if each.name not in done])
    found = itertools.groupby(answers, key=lambda answer: answer.video)
    for each in inputs:
        if each.name in done:
            output.show(_with(predictor.calibration, done[each.name]))
        else:
            _, of_video = next(found)
            output.show(of_video, is_new=True)
    stopped = False
    for each in streams:
        if stopped := output.show_stream(predictor.stream(each, duration=arguments.duration)):
            break
    if folder and arguments.num_processes > 1:
        # So the process that ends last writes the events of all.
        others = [each for each in all_inputs if each.name not in paths]
        done = _done(folder, others)
        for each in others:
            if each.name in done:
                output.keep(_with(predictor.calibration, done[each.name]), each.record.path)
    return output.finish() or (130 if stopped else 0)


def _predictor(arguments):
    """The `Predictor`; what it is and what was changed are logged."""
    from trn_jax.checkpoints.checkpoint import open_checkpoint
    from trn_jax.distributed.compilation_cache import keep_programs
    from trn_jax.prediction.api import Predictor

    _log(f"predicting with {open_checkpoint(arguments.checkpoint)}")
    if arguments.to:
        keep_programs(arguments.to)
    predictor = Predictor(
        arguments.checkpoint,
        timeline=True if arguments.timeline else False if arguments.whole else None,
        every=arguments.every,
        calibrate=not arguments.no_calibration,
        **sampling_of(arguments),
    )
    for line in (predictor.contract, *predictor.contract.changes):
        _log(line)
    if predictor.calibration:
        _log(f"calibrated: {predictor.calibration}")
    return predictor


def _done(folder, inputs):
    """`{video: answers}` of the inputs whose scores a folder has."""
    found = ((each.name, folder.read(each.name, each.record.path)) for each in inputs)
    return {name: answers for name, answers in found if answers}


def _from_scores(arguments):
    from trn_jax.prediction.saved import PredictionFolder

    folder = PredictionFolder(arguments.from_scores)
    found = list(folder.all())
    paths = {about["video"]: about.get("path", "") for _, about in found}
    multi_label = bool(found[0][1].get("multi_label"))
    to = PredictionFolder(arguments.to or arguments.from_scores)
    output = _Output(arguments, multi_label, paths, to)
    for answers, _ in found:
        output.show(_with(None, answers) if arguments.no_calibration else answers)
    return output.finish()


def _detection(arguments):
    given = {key: getattr(arguments, key) for key in _DETECTION}
    return given | {"extend": not arguments.no_extend}


def _with(calibration, answers):
    return [dataclasses.replace(answer, calibration=calibration) for answer in answers]


class _Output:
    """Prints answers and events, as a table or as JSON lines, and fills the folder."""

    def __init__(self, arguments, multi_label, paths, folder):
        self._json = arguments.json
        self._detection = _detection(arguments)
        self._multi_label = multi_label
        self._folder = folder
        self._events = {}
        self._paths = paths
        self._others = {}  # paths of the videos of other processes
        self._top = arguments.top or (5 if len(paths) == 1 else 1)
        self._width = min(max(map(len, map(escaped, paths)), default=0), 60)
        self._num_unreadable = 0
        self._noted = set()

    def show(self, answers, *, is_new=False):
        """Print the answers of a video as they come, and its events; keep those that are new."""
        from trn_jax.prediction.detection import EventDetector, events_of, settings_for

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
            _log(f"unreadable: {problem}")
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
                _log(f"{last.video}: unknown length, so it is not in events.csv; see --frame-rate")
        if self._folder and kept:
            self._events[last.video] = sorted(events, key=lambda event: (event.start, event.end))
            if is_new and not problem:
                self._folder.write(kept, self._paths[last.video])

    def keep(self, answers, path):
        """Keep the events of a video that another process has done."""
        from trn_jax.prediction.detection import events_of, settings_for

        first = answers[0]
        settings = settings_for(first.calibration, first.class_names, **self._detection)
        names = first.class_names, settings
        self._others[first.video] = path
        self._events[first.video] = events_of(answers, *names, multi_label=self._multi_label)

    def show_stream(self, answers):
        """Print the answers of a stream; returns whether Ctrl-C ended it."""
        from trn_jax.prediction.live import Gap

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
            _log(f"scores, captions and events.csv are in {self._folder.path}")
        if self._num_unreadable:
            _log(f"{self._num_unreadable} of {len(self._paths)} videos could not be read")
        return 1 if self._num_unreadable else 0

    def _note(self, notes):
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                _log(note)

    def _print_gap(self, gap):
        if self._json:
            _print_line(
                kind="gap", video=gap.video, start=round(gap.start, 3), end=round(gap.end, 3)
            )
        _log(f"{gap.video} broke for {gap.end - gap.start:.1f} s: {gap.reason}")

    def _print_whole(self, answer, settings):
        name, best = escaped(answer.video), escaped(answer.label)
        none = f"none of these (best: {best})" if self._is_none(answer, settings) else ""
        for label in answer.top_labels(self._top):
            text = none or escaped(answer.class_names[label])
            print(f"{name:{self._width}}  {answer.decisive[label]:.3f}  {text}", flush=True)
            name = none = ""

    def _is_none(self, answer, settings):
        """Whether thresholds reject a whole video."""
        from trn_jax.prediction.detection import accepted_labels

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


def _log(message):
    print(escaped(message), file=sys.stderr, flush=True)
