"""Flags of `trn-jax predict` that have no effect together are refused."""

from trn_jax.cli.arguments import check_unused
from trn_jax.errors import UserError

_OF_MODEL = (
    *("checkpoint", "protocol", "seconds", "frame_rate", "num_segments", "crop", "short_side"),
    *("crop_size", "num_threads", "timeline", "whole", "every", "stream", "pooling", "duration"),
    *("num_processes", "process_id", "explain", "dtype"),
)
_OF_EVENTS = ("hysteresis", "smoothing", "min_seconds", "no_extend")


def check_flags(arguments):
    """Check what doesn't depend on the sources.

    Raises:
        UserError: a value is out of range, or a flag has no effect with the others.
    """
    process_id = arguments.process_id or 0
    if not 0 <= process_id < arguments.num_processes:
        raise UserError(
            f"--process-id={process_id}: expected 0..{arguments.num_processes - 1} with "
            f"--num-processes={arguments.num_processes}"
        )
    if not (arguments.duration is None or arguments.duration > 0):
        raise UserError(f"--duration={arguments.duration}: expected a positive number of seconds")
    if arguments.render and not (arguments.to or arguments.from_scores):
        raise UserError("--render needs a folder to write the videos to, such as --to=predictions")
    if arguments.from_scores:
        reason = "has no effect with --from-scores, which reads finished scores; leave one out"
        if arguments.sources:
            raise UserError(f"SOURCE {arguments.sources[0]!r} {reason}")
        check_unused(arguments, _OF_MODEL, reason)
        return
    if arguments.num_processes > 1 and arguments.process_id is None:
        raise UserError(
            f"--num-processes={arguments.num_processes} without --process-id: each process "
            "predicts only its share; start one with each of --process-id=0.."
            f"{arguments.num_processes - 1}, or leave --num-processes out"
        )
    if not arguments.checkpoint or not arguments.sources:
        raise UserError(
            "predict needs videos and a model: trn-jax predict clip.mp4 --checkpoint=runs/mine"
        )
    if arguments.whole:
        reason = "is for windows, and --whole has none; leave one of them out"
        check_unused(arguments, ("every", "seconds", *_OF_EVENTS), reason)
    if arguments.timeline or arguments.stream:
        mode = "--timeline" if arguments.timeline else "--stream"
        reason = f"is for whole videos, and with {mode} there are none; leave one of them out"
        check_unused(arguments, ("num_threads", "explain"), reason)
        _check_top(arguments)
    if arguments.stream:
        reason = "is for windows, and --stream has an answer after every frame; leave one out"
        check_unused(arguments, ("every",), reason)
    else:
        reason = "is for --stream; add it, or leave --pooling out"
        check_unused(arguments, ("pooling",), reason)


def check_flags_of_streams(arguments, streams, others):
    """Check the flags that are for streams, or for other sources.

    Args:
        arguments: the flags.
        streams: the sources that are streams.
        others: the others.

    Raises:
        UserError: a flag has no effect on them.
    """
    if not streams:
        reason = "is for cameras, URLs and standard input, and no source is one; leave it out"
        check_unused(arguments, ("duration",), reason)
    elif arguments.render:
        from trn_jax.data.streams import masked

        raise UserError(
            f"--render: a stream such as {masked(streams[0])} is not recorded, as it may never "
            "end; record it to a file, and predict that"
        )
    elif arguments.whole:
        raise UserError("--whole: a stream is scored in windows; leave it out, or the stream")
    elif not others:
        reason = "is for videos, and all sources are streams; leave it out"
        check_unused(arguments, ("num_threads", "explain"), reason)
        _check_top(arguments)


def _check_top(arguments):
    if not arguments.json:
        reason = "has no effect on a table of events; add --json, or leave it out"
        check_unused(arguments, ("top",), reason)
