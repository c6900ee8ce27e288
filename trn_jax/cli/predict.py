"""`trn-jax predict`: the classes of videos, with times."""

from trn_jax.cli.arguments import (
    CHECKPOINT,
    add_dtype,
    add_json,
    add_sampling,
    positive,
    sampling_of,
)
from trn_jax.cli.predict_flags import check_flags, check_flags_of_streams
from trn_jax.errors import log
from trn_jax.files import check_folder
from trn_jax.signals import interrupted_status, interrupting

_DETECTION = ("threshold", "hysteresis", "smoothing", "min_seconds")


def add_predict(commands):
    """`trn-jax predict SOURCE... --checkpoint=PATH`."""
    parser = commands.add_parser(
        "predict",
        help="predict the classes of videos, and when they happen",
        description="Predict the classes of videos. A short video gets one answer, with the clips "
        "and the scores of an evaluation. A stream, or a video that lasts more than three times as "
        "long as training examples, is scored in windows and gets a list of events. Exits with 1 "
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
    add(
        "--checkpoint",
        help=CHECKPOINT,
    )
    add_sampling(parser)
    add_dtype(parser)
    _add_modes(parser)
    _add_detection(parser)
    _add_output(parser)
    add("--duration", type=float, help="seconds of a stream after which to stop; default: never")
    add(
        "--num-processes",
        type=positive,
        default=1,
        help="processes, each of which predicts a share",
    )
    add("--process-id", type=int, help="index of this process, from 0; with --num-processes")
    add_json(parser)
    parser.set_defaults(
        run=_predict,
        stopped="stopped; the same command continues with --to",
        default_of=parser.get_default,
    )


def _add_modes(parser):
    """Add what an answer is for: a video, a window of it, or a frame."""
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--timeline", action="store_true", help="score every video in windows")
    mode.add_argument("--whole", action="store_true", help="one answer per video, however long")
    mode.add_argument(
        "--stream",
        action="store_true",
        help="an answer after every frame, with frames as far apart as in training and one pass of "
        "the backbone per frame; TSN, TRN or a causal TSM",
    )
    add = parser.add_argument
    add(
        "--pooling",
        choices=("window", "mean", "exponential"),
        help="with --stream: frames whose features TSN and TSM average: as many as a clip has "
        "(window, the default), or all so far, equally (mean) or with falling weights "
        "(exponential)",
    )
    add(
        "--every",
        type=float,
        help="seconds between windows; default: a quarter of a window, or a segment of TSN and TRN",
    )


def _add_detection(parser):
    """Add how scores become events."""
    add = parser.add_argument
    add(
        "--threshold",
        type=float,
        help="lowest score of an event, and of the class of a video; default: those of the "
        "calibration, see `trn-jax calibrate`; without one, 0.5, for events only",
    )
    add("--no-calibration", action="store_true", help="ignore the calibration of the checkpoint")
    add(
        "--hysteresis",
        type=float,
        help="an event ends where its score falls below this share of the threshold; default: 0.7",
    )
    add("--smoothing", type=positive, help="average this many windows, odd; default: 1")
    add(
        "--min-seconds",
        type=float,
        help="drop events that stay above the threshold for less; default: 0.15 of a window",
    )
    add(
        "--no-extend",
        action="store_true",
        help="don't extend events to the length of a window",
    )


def _add_output(parser):
    """Add what is printed and written."""
    add = parser.add_argument
    add("--top", type=positive, help="classes to print; default: 5 for a single video, else 1")
    add(
        "--to",
        metavar="DIR",
        help="folder for scores, events.csv and captions; the same command resumes",
    )
    add("--from-scores", metavar="DIR", help="find the events again in the scores of a folder")
    add("--render", action="store_true", help="also write the videos with captions to <to>/videos/")
    add(
        "--explain",
        action="store_true",
        help="add the frames that decide the class of a whole video; with --to also as images in "
        "<to>/frames/",
    )


def _predict(arguments):
    check_flags(arguments)
    if place := arguments.to or arguments.from_scores:
        check_folder(place, "--to" if arguments.to else "--from-scores")
    with interrupting():
        return _from_scores(arguments) if arguments.from_scores else _predict_all(arguments)


def _predict_all(arguments):
    from trn_jax.data import memory

    memory.keep()  # before the other imports, which start threads
    from trn_jax.data.streams import is_stream
    from trn_jax.prediction.detection import settings_for
    from trn_jax.prediction.render import by_name
    from trn_jax.prediction.saved import PredictionFolder
    from trn_jax.prediction.share import Share

    settings_for(None, (), **_detection(arguments))  # raises before anything is read
    streams = [each for each in dict.fromkeys(arguments.sources) if is_stream(each)]
    others = [each for each in arguments.sources if not is_stream(each)]
    check_flags_of_streams(arguments, streams, others)
    predictor = _predictor(arguments)
    inputs = predictor.find(others)
    folder = PredictionFolder(arguments.to, predictor.about) if arguments.to else None
    process = arguments.process_id or 0, arguments.num_processes
    share = Share(predictor, folder, inputs, streams, *process)
    films = _films(arguments, by_name(share.inputs), predictor.multi_label, folder)
    found = predictor.multi_label, share.paths, folder, films
    explained = _explained(arguments, predictor, share.inputs, folder)
    output = _output(arguments, *found, others=share.done_elsewhere, explained=explained)
    for answers, path in share.earlier:
        output.keep(answers, path)
    if share.done:
        log(f"{len(share.done)} of {len(share.inputs)} videos are done, in {arguments.to}")
    stopped = 0
    try:
        _show_all(arguments, predictor, share, output)
    except KeyboardInterrupt as error:
        stopped = interrupted_status(error)
        if share.inputs:  # a stream begins anew
            log(arguments.stopped)
    status = output.finish()
    return stopped or status


def _show_all(arguments, predictor, share, output):
    """Predict the videos of this process, then its streams."""
    new = predictor.by_video([each for each in share.inputs if each.name not in share.done])
    for each in share.inputs:
        if each.name in share.done:
            output.show(share.done[each.name])
        else:
            _, answers = next(new)
            output.show(answers, is_new=True)
    for name, text in share.streams.items():
        found = predictor.stream(text, duration=arguments.duration, name=name)
        output.show_stream(found)


def _predictor(arguments):
    """The `Predictor`; what it is and what was changed are logged."""
    from trn_jax.checkpoints.checkpoint import open_checkpoint
    from trn_jax.distributed.compilation_cache import keep_programs
    from trn_jax.prediction.api import Predictor

    opened = open_checkpoint(arguments.checkpoint)
    log(f"predicting with {opened}")
    if arguments.to:
        keep_programs(arguments.to)
    predictor = Predictor(
        opened.path,
        timeline=True if arguments.timeline else False if arguments.whole else None,
        every=arguments.every,
        stream=arguments.stream,
        pooling=arguments.pooling or "window",
        calibrate=not arguments.no_calibration,
        dtype=arguments.dtype,
        **sampling_of(arguments),
    )
    log(f"compute in {predictor.model.dtype}")
    for line in (predictor.contract, *predictor.contract.changes):
        log(line)
    if predictor.calibration:
        log(f"calibrated: {predictor.calibration}")
    return predictor


def _from_scores(arguments):
    from trn_jax.prediction.render import found_again
    from trn_jax.prediction.saved import PredictionFolder, with_calibration

    folder = PredictionFolder(arguments.from_scores)
    found = list(folder.all())
    abouts = {about["video"]: about for _, about in found}
    paths = {video: about.get("path", "") for video, about in abouts.items()}
    multi_label = bool(found[0][1].get("multi_label"))
    to = PredictionFolder(arguments.to or arguments.from_scores)
    films = _films(arguments, lambda video: found_again(video, abouts[video]), multi_label, to)
    output = _output(arguments, multi_label, paths, to, films)
    for answers, _ in found:
        output.show(with_calibration(None, answers) if arguments.no_calibration else answers)
    return output.finish()


def _detection(arguments):
    given = {key: getattr(arguments, key) for key in _DETECTION}
    return given | {"extend": not arguments.no_extend}


def _films(arguments, opening, multi_label, folder):
    """The `Films` of `--render`; `None` without it."""
    if not arguments.render:
        return None
    from trn_jax.prediction.render import Films

    top = arguments.top or 3
    return Films(opening, folder.film, multi_label=multi_label, top=top, log=log)


def _explained(arguments, predictor, inputs, folder):
    """What explains whole videos with `--explain`, see `Output`; `None` without it."""
    if not arguments.explain:
        return None
    from trn_jax.explanation.api import Explainer
    from trn_jax.explanation.deciding import DecidingFrames, line_of

    options = sampling_of(arguments)
    del options["seconds"]  # of windows
    explainer = Explainer(predictor.model, parts=["frames"], **options)
    return DecidingFrames(explainer, inputs, folder and folder.frames), line_of


def _output(arguments, multi_label, paths, folder, films, **options):
    from trn_jax.prediction.output import Output

    shown = dict(as_json=arguments.json, top=arguments.top, films=films)
    return Output(_detection(arguments), multi_label, paths, folder, **shown, **options)
