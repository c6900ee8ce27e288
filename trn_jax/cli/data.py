"""`trn-jax prepare`, `extract`, `check` and `records`: data sets."""

import argparse
import json
import os
import sys

from trn_jax.cli.arguments import add_json, add_recipe, positive, read_recipe
from trn_jax.errors import UserError, did_you_mean

_PREPARE = """Make a data set to train on.

The source is
  a folder of classes    <folder>/<class>/<video>.mp4, with any folders in between; or
                         <folder>/train/<class>/..., val/..., test/...
  a table                .csv, .tsv, .json or .jsonl with a column for the video and one for its
                         class (headers such as video, path, file; label, class, action, gloss);
                         perhaps one for the split (split, subset) with train, val or test
  a list                 .txt with lines "<video> <class>" or "<folder> <frames> <class>"
  a folder of videos     with such a table in it or beside it
  a data set             jester, sthv1, sthv2, k400, charades, moments, ucf101 or hmdb51, with
                         --archives=<folder of what was downloaded>

Splits: videos for which the source says train, val or test stay there. Where it has none for
validation, each training video goes to validation or not by a hash of --seed and its path, so that
adding videos moves no other; what the lists in --to have already stays where it is. Test videos are
never trained on, and the best checkpoint is not chosen on them: evaluate them at the end with
trn-jax eval <workdir> --split=test.

Videos of one person, or cut from one recording, should be in one split. --group-by keeps them
together:
  --group-by=speaker                 a column of the table
  --group-by=level2                  <class>/<person>/<video>: the folders of the second level
  --group-by='(person[0-9]+)_'       what the group of a regular expression finds in the path

An interrupted command resumes when it is run again; after that, it does nothing. Missing videos are
listed in <to>/missing.txt and unreadable ones in <to>/unreadable.txt; neither are in the lists.
The exit status is 1 if unreadable videos or classes were left out.
"""
_STOPPED = "stopped; run the same command to resume"
# What `prepare` takes with --archives only, and without it only.
_OF_ARCHIVES = ("order", "skip_video_check")
_OF_OWN = (
    "val_share",
    "seed",
    "group_by",
    "class_level",
    "merge_classes",
    "multi_label",
    "columns",
    "videos",
)


def add_prepare(commands):
    """`trn-jax prepare`."""
    parser = commands.add_parser(
        "prepare",
        help="make a data set to train on of own videos, or of the archives of a public one",
        description=_PREPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="folder, table, list or data set, see above")
    parser.add_argument("--to", required=True, help="folder of the data set")
    parser.add_argument("--archives", help="folder with what was downloaded of a data set")
    parser.add_argument(
        "--order",
        choices=("official", "alphabetical", "both"),
        default="both",
        help="with --archives, of the labels: that of the data set's own file, of mmaction2's "
        "weights; alphabetical, of TRN's; default: lists of both, under different names",
    )
    parser.add_argument(
        "--skip-video-check",
        action="store_true",
        help="with --archives: don't open the video files (about ten milliseconds each); lists "
        "have the unreadable ones, too, then",
    )
    parser.add_argument(
        "--val-share", type=float, default=0.2, help="of each class; by default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice for validation")
    parser.add_argument(
        "--group-by",
        default="",
        metavar="GROUP",
        help="keep these together in one split, see above",
    )
    parser.add_argument(
        "--class-level",
        type=positive,
        default=1,
        help="level of the folders with the names of the classes, from the top, or below train, "
        "val and test; by default %(default)s",
    )
    parser.add_argument(
        "--merge-classes",
        action="store_true",
        help="make one class of those whose names differ only in case or spaces",
    )
    parser.add_argument(
        "--multi-label", action="store_true", help="cells have several classes: 'run;jump'"
    )
    parser.add_argument(
        "--columns",
        default="",
        metavar="path=HEADER,label=HEADER",
        help="columns of a table by their headers or numbers; also split=HEADER",
    )
    parser.add_argument(
        "--videos", default="", help="folder that a table's paths are relative to; default: its own"
    )
    parser.add_argument("--workers", type=positive, help="processes; by default one per core")
    parser.add_argument(
        "--records", action="store_true", help="make records, too, see `trn-jax records`"
    )
    parser.set_defaults(run=_prepare, stopped=_STOPPED, default_of=parser.get_default)


def _prepare(arguments):
    from trn_jax.prepare import PREPARATIONS, custom
    from trn_jax.prepare.folder_lock import locked_folder
    from trn_jax.prepare.workers import num_cpus

    if arguments.archives:
        if arguments.source not in PREPARATIONS:
            hint = did_you_mean(arguments.source, PREPARATIONS)
            raise UserError(
                f"there is no data set {arguments.source!r}{hint} --archives is for "
                f"{', '.join(PREPARATIONS)}"
            )
        _check_usual(arguments, _OF_OWN, "is for own videos, and --archives for data sets")
        return _prepare_archives(arguments)
    if arguments.source in PREPARATIONS and not os.path.exists(arguments.source):
        raise UserError(f"{arguments.source} needs --archives=<folder with what was downloaded>")
    _check_usual(arguments, _OF_ARCHIVES, "needs --archives")
    if arguments.records:
        # First, as it raises if a package is missing.
        from trn_jax.tfds.build_records import build_records
    with locked_folder(arguments.to):
        writer = custom.prepare_custom(
            arguments.source,
            arguments.to,
            val_share=arguments.val_share,
            seed=arguments.seed,
            workers=arguments.workers or num_cpus(),
            merge_classes=arguments.merge_classes,
            class_level=arguments.class_level,
            group_by=arguments.group_by,
            columns=_columns(arguments.columns),
            videos=arguments.videos,
            multi_label=arguments.multi_label,
        )
        print(writer, flush=True)
        if arguments.records:
            to = os.path.join(arguments.to, "records")
            made = build_records(
                arguments.to, to, files=writer.naming, multi_label=arguments.multi_label
            )
            print("records:", made, sep="\n")
    return writer.status


def _check_usual(arguments, names, reason):
    for name in names:
        if getattr(arguments, name) != arguments.default_of(name):
            raise UserError(f"--{name.replace('_', '-')} {reason}")


def _prepare_archives(arguments):
    from trn_jax.prepare import PREPARATIONS
    from trn_jax.prepare.folder_lock import locked_folder
    from trn_jax.prepare.lists import ORDERS
    from trn_jax.prepare.workers import num_cpus

    if arguments.records:
        # First, as it raises if a package is missing.
        from trn_jax.tfds.build_records import build_prepared
    with locked_folder(arguments.to):
        writer = PREPARATIONS[arguments.source](
            arguments.archives,
            arguments.to,
            workers=arguments.workers or num_cpus(),
            orders=ORDERS if arguments.order == "both" else (arguments.order,),
            check=not arguments.skip_video_check,
        )
        print(writer, flush=True)
        if arguments.records:
            of_videos = writer.training.source == "videos"
            print("records, of the videos; they need no frames:" if of_videos else "records:")
            print(build_prepared(writer))
    return writer.status


def _columns(text):
    """`"path=clip,label=gloss"` as a dict."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    known = ("path", "label", "split")
    if wrong := [what for what, _, name in pairs if what.strip() not in known or not name.strip()]:
        raise UserError(
            f"--columns={text}: {wrong[0]!r} is not one of {', '.join(known)}, or has no header; "
            "expected --columns=path=<header>,label=<header>"
        )
    return {what.strip(): name.strip() for what, _, name in pairs}


_EXTRACT = """Write the frames of videos as folders of JPEGs.

<to>/manifest.jsonl has the hash of each video, and how many frames of which size there are.
An interrupted command resumes when it is run again. Unreadable videos are reported and listed in
<to>/unreadable.txt; the others are extracted, and the exit status is 1.
"""


def add_extract(commands):
    """`trn-jax extract`."""
    parser = commands.add_parser(
        "extract",
        help="write the frames of videos as folders of JPEGs",
        description=_EXTRACT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", help="a folder, or a list with the path of a video per line")
    parser.add_argument("--to", required=True, help="folder for the folders of frames")
    parser.add_argument(
        "--short-side",
        type=int,
        default=256,
        help="pixels of the shorter side; 0: as in the video; by default %(default)s",
    )
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs; %(default)s")
    parser.add_argument("--fps", type=float, help="frames per second; by default all frames")
    parser.add_argument("--pattern", default="{:05d}.jpg", help="of the names; %(default)s")
    parser.add_argument("--workers", type=positive, help="processes; by default one per core")
    parser.set_defaults(run=_extract, stopped=_STOPPED)


def _extract(arguments):
    from trn_jax.prepare import extraction
    from trn_jax.prepare.folder_lock import locked_folder
    from trn_jax.prepare.workers import num_cpus

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
        + (f" (see {arguments.to}/{extraction.UNREADABLE})" if unreadable else "")
    )
    return 1 if unreadable else 0


def add_records(commands):
    """`trn-jax records`."""
    parser = commands.add_parser(
        "records", help="put a prepared data set into a few large files, which TFDS reads, too"
    )
    parser.add_argument("data_dir", help="folder of the data set, with its lists")
    parser.add_argument("--to", required=True, help="folder; the records come into one below it")
    parser.add_argument(
        "--dataset", default="frames", help="name in the catalogue, such as sthv1; by default own"
    )
    parser.add_argument(
        "--multi-label", action="store_true", help="lists have several labels per video"
    )
    parser.add_argument(
        "--short-side", type=positive, default=0, help="of video files: scale larger frames down"
    )
    parser.add_argument(
        "--quality", type=positive, default=95, help="of JPEGs of video files; by default 95"
    )
    for field in ("train_list", "val_list", "test_list", "class_names", "frame_pattern"):
        flag = field.replace("_", "-")
        parser.add_argument(f"--{flag}", help=f"instead of the catalogue's, as data.{field}")
    parser.add_argument("--first-frame", type=int, help="number of the first frame, as in data")
    parser.set_defaults(run=_records)


def _records(arguments):
    from trn_jax.prepare.folder_lock import locked_folder
    from trn_jax.tfds.build_records import build_records

    fields = ("train_list", "val_list", "test_list", "class_names", "frame_pattern", "first_frame")
    left_out: list[str] = []
    with locked_folder(arguments.to):
        said = build_records(
            arguments.data_dir,
            arguments.to,
            dataset=arguments.dataset,
            multi_label=arguments.multi_label,
            short_side=arguments.short_side,
            quality=arguments.quality,
            files={field: getattr(arguments, field) for field in fields},
            left_out=left_out,
        )
    print(said)
    return 1 if left_out else 0


def add_check(commands):
    """`trn-jax check`."""
    parser = commands.add_parser(
        "check",
        help="find missing, broken, duplicate and mislabelled videos of a data set",
        epilog="Settings of the recipe as in training, such as --config.data_dir=data/mine. Exits "
        "with 0 if there is nothing to find, else with 1.",
    )
    add_recipe(parser)
    parser.add_argument("--list", help="look through a list instead of the data of a recipe")
    parser.add_argument("--videos", help="with --list: folder of its videos or frame folders")
    parser.add_argument("--classes", help="with --list: file with the name of one class per line")
    parser.add_argument("--frame-pattern", default="{:05d}.jpg", help="with --list; %(default)s")
    parser.add_argument("--first-frame", type=int, default=1, help="with --list; %(default)s")
    parser.add_argument("--deep", action="store_true", help="decode all frames, not three a video")
    parser.add_argument(
        "--to", default="check", help="folder for the lists; by default %(default)s"
    )
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(arguments):
    findings = _findings_of_recipe(arguments) if arguments.list is None else _of_list(arguments)
    findings.write(arguments.to)
    if arguments.json:
        print(json.dumps(findings.to_dict(), indent=1))
    else:
        print(f"{findings}\nlists of what can be used, and of what not and why: {arguments.to}")
    return 1 if findings.num_problems else 0


def _findings_of_recipe(arguments):
    from trn_jax import build, checks
    from trn_jax.data import check

    config = read_recipe(arguments)
    checks.check(config)
    data = build.Data(config, "runs/check")
    files = data.files
    if files.source == "records":
        raise UserError(
            f"{files.train_list} are records, which were checked when they were made; look at the "
            "folders of frames or the videos that they were made from"
        )
    lists = {split: files.of_split(split) for split in ("train", "val", "test")}
    if not os.path.exists(files.test_list):
        del lists["test"]
    return check.check(
        lists,
        data.source,
        num_segments=config.model.num_segments,
        class_names=data.class_names,
        multi_label=data.multi_label,
        deep=arguments.deep,
        num_threads=data.num_threads,
    )


def _of_list(arguments):
    others = arguments.settings or arguments.recipe or arguments.config
    if others or not (arguments.videos and arguments.classes):
        raise UserError("--list needs --videos=<folder> and --classes=<file>, and no recipe")
    from trn_jax.data import annotations, check, decode, videos

    frames = dict(pattern=arguments.frame_pattern, first_frame=arguments.first_frame)
    of_files = annotations.lists_videos(arguments.list)
    source = videos.VideoFiles() if of_files else decode.FrameFolders(**frames)
    return check.check(
        {"list": (arguments.list, arguments.videos)},
        source,
        class_names=annotations.read_class_names(arguments.classes),
        deep=arguments.deep,
    )
