"""`trn-jax predict`: the classes of videos, with times."""

import dataclasses
import itertools
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
    add("--render", action="store_true", help="also write the videos with captions: <to>/videos/")
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
    from trn_jax.prediction.render import by_name
    from trn_jax.prediction.saved import PredictionFolder

    settings_for(None, (), **_detection(arguments))  # raises before anything is read
    streams = [each for each in arguments.sources if is_stream(each)]
    _check_render(arguments, streams)
    predictor = _predictor(arguments)
    others = [each for each in arguments.sources if not is_stream(each)]
    all_inputs = predictor.find(others)
    inputs = all_inputs[arguments.process_id :: arguments.num_processes]
    folder = PredictionFolder(arguments.to, predictor.about) if arguments.to else None
    paths = {each.name: each.record.path for each in inputs} | dict.fromkeys(streams, "")
    films = _films(arguments, by_name(inputs), predictor.multi_label, folder)
    output = _output(arguments, predictor.multi_label, paths, folder, films)
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
    from trn_jax.prediction.render import found_again
    from trn_jax.prediction.saved import PredictionFolder

    folder = PredictionFolder(arguments.from_scores)
    found = list(folder.all())
    abouts = {about["video"]: about for _, about in found}
    paths = {video: about.get("path", "") for video, about in abouts.items()}
    multi_label = bool(found[0][1].get("multi_label"))
    to = PredictionFolder(arguments.to or arguments.from_scores)
    films = _films(
        arguments,
        lambda video: found_again(video, abouts[video], arguments.frame_rate),
        multi_label,
        to,
    )
    output = _output(arguments, multi_label, paths, to, films)
    for answers, _ in found:
        output.show(_with(None, answers) if arguments.no_calibration else answers)
    return output.finish()


def _detection(arguments):
    given = {key: getattr(arguments, key) for key in _DETECTION}
    return given | {"extend": not arguments.no_extend}


def _with(calibration, answers):
    return [dataclasses.replace(answer, calibration=calibration) for answer in answers]


def _check_render(arguments, streams):
    """Check that the sources of `--render` are videos, and that it has a folder."""
    if not arguments.render:
        return
    if not arguments.to:
        raise UserError("--render needs a folder to write the videos to, such as --to=predictions")
    if streams:
        raise UserError(
            f"--render: a stream such as {streams[0]} is not recorded, as it may never end; "
            "record it to a file, and predict that"
        )


def _films(arguments, opening, multi_label, folder):
    """The `Films` of `--render`; `None` without it."""
    if not arguments.render:
        return None
    from trn_jax.prediction.render import Films

    top = arguments.top or 3
    return Films(opening, folder.film, multi_label=multi_label, top=top, log=_log)


def _output(arguments, multi_label, paths, folder, films):
    from trn_jax.prediction.output import Output

    shown = dict(as_json=arguments.json, top=arguments.top, films=films)
    return Output(_detection(arguments), multi_label, paths, folder, **shown)


def _log(message):
    print(escaped(message), file=sys.stderr, flush=True)
