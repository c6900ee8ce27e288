"""`trn-jax prepare` and `extract`."""

import argparse
import os
import sys

from trn_jax.cli.arguments import check_unused, positive
from trn_jax.errors import UserError, did_you_mean

_PREPARE = """Prepare a data set for training.

The source is
  a folder of classes    <folder>/<class>/<video>.mp4, with any folders in between; or
                         <folder>/train/<class>/..., val/..., test/...
  a table                .csv, .tsv, .json or .jsonl with a column for the video and one for its
                         class (headers such as video, path, file; label, class, action, gloss),
                         and optionally one for the split (split, subset): train, val or test
  a list                 .txt with lines "<video> <class>" or "<folder> <frames> <class>"
  a table of parts       with columns for the start and the end of the part of a video, too (start,
                         end, stop, begin, onset, offset, start_time, t_start, ...), in seconds or
                         as h:mm:ss.mmm, such as events.csv of trn-jax predict; videos need not be
                         cut
  annotations            of ActivityNet (.json), ELAN (.eaf), BORIS (exported events, .csv or .tsv),
                         Label Studio (.json) or CVAT ("CVAT for video 1.1", .xml); or a folder of
                         such files
  a folder of videos     with such a table in it or beside it
  a public data set      jester, sthv1, sthv2, k400, charades, moments, ucf101 or hmdb51, with
                         --archives=<folder of the downloads>

Splits: a split given by the source is kept. If the source has no videos for validation, a hash of
--seed and of its path decides whether a video is for training or validation, so that adding videos
moves no other; videos in the lists in --to keep their splits. Test videos are used neither for
training nor to choose the best checkpoint: evaluate them at the end with
trn-jax eval <workdir> --split=test.

Videos of one person, or cut from one recording, belong in one split. --group-by keeps them
together:
  --group-by=speaker                 a column of the table
  --group-by=level2                  <class>/<person>/<video>: the folders of the second level
  --group-by='(person[0-9]+)_'       the group of a regular expression in the path

Parts of one video stay in one split. If there is only one video, its last parts are for validation,
and parts that begin less than the median length of a part before those are left out. Parts outside
of their video are left out, and those that end after it are used up to its end. --background=0.5
also takes parts without a label, half as many as labelled ones, as a class "nothing": they overlap
no labelled part, and have similar lengths.

The same command resumes after an interruption and does nothing once all is done. Missing videos
are listed in <to>/missing.txt and unreadable ones in <to>/unreadable.txt, and left out of the
lists. The exit status is 1 if unreadable videos, parts or classes were left out.
"""
_STOPPED = "stopped; run the same command to resume"


def add_prepare(commands):
    """`trn-jax prepare`."""
    parser = commands.add_parser(
        "prepare",
        help="prepare a data set from your own videos, or from the archives of a public one",
        description=_PREPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="folder, table, list or public data set, see above")
    parser.add_argument("--to", required=True, help="folder for the data set")
    parser.add_argument("--workers", type=positive, help="processes; default: one per core")
    parser.add_argument(
        "--records", action="store_true", help="also build records, see `trn-jax records`"
    )
    parser.add_argument("--archives", help="folder of the downloads of a public data set")
    parser.set_defaults(
        run=_prepare,
        stopped=_STOPPED,
        default_of=parser.get_default,
        archive_flags=_add_archive_flags(parser.add_argument_group("with --archives")),
        custom_flags=_add_custom_flags(parser.add_argument_group("without --archives")),
    )


def _add_archive_flags(group):
    flags = [
        group.add_argument(
            "--order",
            choices=("official", "alphabetical", "both"),
            default="both",
            help="of the labels: official, the order of the data set and of mmaction2's weights; "
            "alphabetical, that of TRN's weights; default: lists in both, with different names",
        ),
        group.add_argument(
            "--skip-video-check",
            action="store_true",
            help="don't open the video files (about 10 ms each); unreadable ones stay in the lists",
        ),
    ]
    return [flag.dest for flag in flags]


def _add_custom_flags(group):
    flags = [*_add_division_flags(group), *_add_class_flags(group), *_add_part_flags(group)]
    init_from = group.add_argument(
        "--init-from",
        default="",
        metavar="WEIGHTS",
        help="weights of a ResNet-50 or of a whole model: print the command that fine-tunes "
        "them instead of the one that trains a small network from scratch",
    )
    return [flag.dest for flag in [*flags, init_from]]


def _add_division_flags(group):
    """Add flags on the division into training and validation; returns them."""
    add = group.add_argument
    return [
        add(
            "--val-share",
            type=float,
            default=0.2,
            help="share of each class for validation; default: %(default)s",
        ),
        add("--seed", type=int, default=0, help="of the choice for validation; default: 0"),
        add("--group-by", default="", metavar="GROUP", help="keep these together, see above"),
    ]


def _add_class_flags(group):
    """Add flags on the classes of videos; returns them."""
    add = group.add_argument
    return [
        add(
            "--class-level",
            type=positive,
            default=1,
            help="level of the class folders, from the top or below train, val and test; "
            "default: %(default)s",
        ),
        add(
            "--merge-classes",
            action="store_true",
            help="merge classes whose names differ only in case or spaces",
        ),
        add(
            "--multi-label",
            action="store_true",
            help="cells of a table may have several classes: 'run;jump'",
        ),
    ]


def _add_part_flags(group):
    """Add flags on tables, annotations and the parts of videos; returns them."""
    add = group.add_argument
    return [
        add(
            "--columns",
            default="",
            metavar="path=HEADER,label=HEADER",
            help="columns of a table by header or number; also split=, start= and end=; of ELAN "
            "files, label=TIER",
        ),
        add(
            "--videos",
            default="",
            help="folder of the videos of a table or of annotations; default: its own",
        ),
        add(
            "--background",
            type=float,
            default=0.0,
            metavar="SHARE",
            help="add this many parts without a label, as a share of labelled ones, see above",
        ),
        add(
            "--frame-rate",
            type=float,
            metavar="FPS",
            help="frames per second of folders of frames with parts in seconds, or of annotations "
            "in frames; default: annotated frames are those of the video",
        ),
    ]


def _prepare(arguments):
    from trn_jax.prepare import PREPARATIONS
    from trn_jax.prepare.folder_lock import locked_folder

    if arguments.archives:
        if arguments.source not in PREPARATIONS:
            hint = did_you_mean(arguments.source, PREPARATIONS)
            raise UserError(
                f"there is no data set {arguments.source!r}{hint} --archives is for "
                f"{', '.join(PREPARATIONS)}"
            )
        check_unused(arguments, arguments.custom_flags, "is not for --archives")
    else:
        if arguments.source in PREPARATIONS and not os.path.exists(arguments.source):
            raise UserError(f"{arguments.source} needs --archives=<folder of the downloads>")
        check_unused(arguments, arguments.archive_flags, "needs --archives")
    if arguments.records:
        from trn_jax.tfds import build_records  # now, as it raises if a package is missing
    with locked_folder(arguments.to):
        prepare = _prepare_public if arguments.archives else _prepare_custom
        writer = prepare(arguments)
        print(writer, flush=True)
        if arguments.records and arguments.archives:
            of_videos = writer.training.source == "videos"
            print("records, of the videos; they need no frames:" if of_videos else "records:")
            print(build_records.build_prepared(writer))
        elif arguments.records:
            to, options = os.path.join(arguments.to, "records"), dict(files=writer.naming)
            options |= dict(multi_label=arguments.multi_label, training=writer.training)
            print("records:", build_records.build_records(arguments.to, to, **options), sep="\n")
    return writer.status


def _prepare_public(arguments):
    from trn_jax.data.workers import num_cpus
    from trn_jax.prepare import PREPARATIONS
    from trn_jax.prepare.lists import ORDERS

    return PREPARATIONS[arguments.source](
        arguments.archives,
        arguments.to,
        workers=arguments.workers or num_cpus(),
        orders=ORDERS if arguments.order == "both" else (arguments.order,),
        check=not arguments.skip_video_check,
    )


def _prepare_custom(arguments):
    from trn_jax.data.workers import num_cpus
    from trn_jax.prepare.custom import prepare_custom

    options = {name: getattr(arguments, name) for name in arguments.custom_flags}
    options["columns"] = _columns(arguments.columns)
    workers = arguments.workers or num_cpus()
    return prepare_custom(arguments.source, arguments.to, workers=workers, **options)


def _columns(text):
    """`"path=clip,label=gloss"` as a dict."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    known = ("path", "label", "split", "start", "end")
    if wrong := [what for what, _, name in pairs if what.strip() not in known or not name.strip()]:
        raise UserError(
            f"--columns={text}: {wrong[0]!r} is not one of {', '.join(known)}, or has no header; "
            "expected --columns=path=<header>,label=<header>"
        )
    return {what.strip(): name.strip() for what, _, name in pairs}


_EXTRACT = """Extract the frames of videos to folders of JPEGs.

<to>/manifest.jsonl has the hash of each video, and the number and size of its frames. The same
command resumes after an interruption. Unreadable videos are listed in <to>/unreadable.txt; the
others are extracted, and the exit status is 1.
"""


def add_extract(commands):
    """`trn-jax extract`."""
    parser = commands.add_parser(
        "extract",
        help="extract the frames of videos to folders of JPEGs",
        description=_EXTRACT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("videos", help="a folder, or a list with the path of a video per line")
    add("--to", required=True, help="folder for the frame folders")
    add(
        "--short-side",
        type=int,
        default=256,
        help="shorter side of the frames, in pixels; 0: as in the video; default: %(default)s",
    )
    add("--quality", type=int, default=95, help="JPEG quality; default: %(default)s")
    add("--fps", type=float, help="frames per second; default: all frames")
    add("--pattern", default="{:05d}.jpg", help="file name of a frame; default: %(default)s")
    add("--workers", type=positive, help="processes; default: one per core")
    parser.set_defaults(run=_extract, stopped=_STOPPED)


def _extract(arguments):
    from trn_jax.data.workers import num_cpus
    from trn_jax.prepare import extraction
    from trn_jax.prepare.folder_lock import locked_folder
    from trn_jax.prepare.left_out import UNREADABLE

    settings = extraction.Settings(
        arguments.short_side, arguments.quality, arguments.fps, arguments.pattern
    )
    root, names = extraction.find_sources(arguments.videos)
    with locked_folder(arguments.to):
        written, kept, unreadable = extraction.extract(
            root,
            names,
            arguments.to,
            settings,
            workers=arguments.workers or num_cpus(),
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(
        f"{written:,} videos extracted to {arguments.to}, {kept:,} were there already, "
        f"{len(unreadable):,} are unreadable"
        + (f" (see {arguments.to}/{UNREADABLE})" if unreadable else "")
    )
    return 1 if unreadable else 0
