"""`trn-jax check` and `records`."""

import json
import os

from trn_jax.cli.arguments import add_json, add_recipe, positive, read_recipe
from trn_jax.errors import UserError

_FILE_FLAGS = ("train_list", "val_list", "test_list", "class_names", "frame_pattern")


def add_check(commands):
    """`trn-jax check`."""
    parser = commands.add_parser(
        "check",
        help="find missing, broken, duplicate and mislabelled videos of a data set",
        epilog="Settings of the recipe follow, such as --config.data_dir=data/mine. The exit "
        "status is 1 if there are problems.",
    )
    add_recipe(parser)
    add = parser.add_argument
    add("--list", help="check a list instead of the data of a recipe")
    add("--videos", help="with --list: folder of its videos or frame folders")
    add("--classes", help="with --list: file with the name of one class per line")
    add("--frame-pattern", default="{:05d}.jpg", help="with --list; default: %(default)s")
    add("--first-frame", type=int, default=1, help="with --list; default: %(default)s")
    add("--deep", action="store_true", help="decode all frames, not three per video")
    add("--to", default="check", help="folder for the lists; default: %(default)s")
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(arguments):
    findings = _check_recipe(arguments) if arguments.list is None else _check_list(arguments)
    findings.write(arguments.to)
    if arguments.json:
        print(json.dumps(findings.to_dict(), indent=1))
    else:
        print(findings)
        print(f"wrote *_list.txt and *_quarantine.txt (with reasons) to {arguments.to}")
    return 1 if findings.num_problems else 0


def _check_recipe(arguments):
    from trn_jax import build, checks
    from trn_jax.data import check

    config = read_recipe(arguments)
    checks.check(config)
    data = build.Data(config, "runs/check")
    files = data.files
    if files.source == "records":
        raise UserError(
            f"{files.train_list} are records, which were checked when they were built; check the "
            "frame folders or videos that they were built from"
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


def _check_list(arguments):
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


def add_records(commands):
    """`trn-jax records`."""
    parser = commands.add_parser(
        "records", help="pack a prepared data set into a few large files, which TFDS reads, too"
    )
    add = parser.add_argument
    add("data_dir", help="folder of the data set, with its lists")
    add("--to", required=True, help="folder of TFDS's data sets; the records get a folder in it")
    add("--dataset", default="frames", help="public data set, such as sthv1; default: custom")
    add("--multi-label", action="store_true", help="lists have several labels per video")
    add("--short-side", type=positive, default=0, help="scale larger frames of video files down")
    add("--quality", type=positive, default=95, help="JPEG quality for video files; default: 95")
    for field in _FILE_FLAGS:
        add(f"--{field.replace('_', '-')}", help=f"as data.{field}; default: of the data set")
    add("--first-frame", type=int, help="as data.first_frame; default: of the data set")
    parser.set_defaults(run=_records)


def _records(arguments):
    from trn_jax.prepare.folder_lock import locked_folder
    from trn_jax.tfds.build_records import build_records

    left_out: list[str] = []
    with locked_folder(arguments.to):
        summary = build_records(
            arguments.data_dir,
            arguments.to,
            dataset=arguments.dataset,
            multi_label=arguments.multi_label,
            short_side=arguments.short_side,
            quality=arguments.quality,
            files={field: getattr(arguments, field) for field in (*_FILE_FLAGS, "first_frame")},
            left_out=left_out,
        )
    print(summary)
    return 1 if left_out else 0
