"""`trn-jax check`, `show` and `records`."""

import json
import os
import sys

from trn_jax.cli.arguments import add_json, add_recipe, positive, read_recipe
from trn_jax.errors import UserError, did_you_mean, escaped, log
from trn_jax.files import check_file, check_folder

_MOST_SHOWN = 200  # clips
_FILE_FLAGS = ("train_list", "val_list", "test_list", "class_names", "frame_pattern")
_NUMBERING = ("first_frame", "with_offset")
_WITH_OFFSET = "lines '<folder> <offset> <num_frames> <label>', for parts of folders of frames"


def add_check(commands):
    """`trn-jax check`."""
    parser = commands.add_parser(
        "check",
        help="find missing, broken, duplicate and mislabelled videos of a data set",
        description="Find missing, broken, duplicate and mislabelled videos of a data set, and "
        "write lists of the usable videos and of the others, with reasons. Exits with 1 if there "
        "are problems.",
        epilog="Settings of the recipe are flags, such as --config.data_dir=data/mine.",
    )
    add_recipe(parser)
    add = parser.add_argument
    add("--list", help="check a list instead of the data of a recipe")
    add("--videos", help="with --list: folder of its videos or frame folders")
    add("--classes", help="with --list: file with the name of one class per line")
    add("--frame-pattern", default="{:05d}.jpg", help="with --list; default: %(default)s")
    add("--first-frame", type=int, default=1, help="with --list; default: %(default)s")
    add("--with-offset", action="store_true", help=f"with --list: {_WITH_OFFSET}")
    add("--deep", action="store_true", help="decode all frames, not three per video")
    add("--to", default="check", help="folder for the lists; default: %(default)s")
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(arguments):
    check_folder(arguments.to)
    findings = _check_recipe(arguments) if arguments.list is None else _check_list(arguments)
    findings.write(arguments.to)
    if arguments.json:
        print(json.dumps(findings.to_dict(), indent=1))
    else:
        print(findings)
        print(f"wrote *_list.txt and *_quarantine.txt (with reasons) to {arguments.to}")
    return 1 if findings.num_problems else 0


def _check_recipe(arguments):
    from trn_jax import checks
    from trn_jax.data import check
    from trn_jax.recipe_data import Data

    config = read_recipe(arguments)
    checks.check(config)
    data = Data(config, "runs/check")
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
        with_offset=files.with_offset,
        deep=arguments.deep,
        num_threads=data.num_threads,
    )


def _check_list(arguments):
    others = arguments.settings or arguments.recipe or arguments.config
    if others or not (arguments.videos and arguments.classes):
        raise UserError("--list needs --videos=<folder> and --classes=<file>, and no recipe")
    from trn_jax.data import annotations, check, videos
    from trn_jax.data.class_names import read_class_names
    from trn_jax.data.frame_folders import FrameFolders

    frames = dict(pattern=arguments.frame_pattern, first_frame=arguments.first_frame)
    of_files = annotations.lists_videos(arguments.list)
    source = videos.VideoFiles() if of_files else FrameFolders(**frames)
    return check.check(
        {"list": (arguments.list, arguments.videos)},
        source,
        class_names=read_class_names(arguments.classes),
        with_offset=arguments.with_offset,
        deep=arguments.deep,
    )


def add_show(commands):
    """`trn-jax show`."""
    parser = commands.add_parser(
        "show",
        help="draw augmented clips with their labels, as the network receives them",
        description="Draw clips with their labels, one per row, as the network receives them: "
        "sampled, cropped, mirrored and with colour jitter. By default they are the first clips of "
        "a training. Exits with 1 if videos are unreadable or have lost frames.",
        epilog="Settings of the recipe are flags, such as --config.size=112. Some scripts of class "
        "names need .html: a PNG has no letters for them.",
    )
    add = parser.add_argument
    add("data", nargs="?", help="folder from `trn-jax prepare`, or name or file of a recipe")
    add("--config", metavar="RECIPE", help="recipe for a folder; default: finetune")
    add("--split", choices=("train", "val", "test"), help="default: train, or that of --view")
    add("--view", help="data.train, data.val or protocols.<name>; default: that of --split")
    add("--num-clips", type=positive, default=12, help=f"up to {_MOST_SHOWN}; default: 12")
    add("--seed", type=int, help="of the choice and the augmentation; default: the recipe's")
    add("--to", default="clips.png", help="file .png, or .html for a page; default: %(default)s")
    add_json(parser)
    parser.set_defaults(run=_show, takes_settings=True)


def _show(arguments):
    kind = os.path.splitext(arguments.to)[1].lower()
    if kind not in (".png", ".html"):
        raise UserError(f"--to={arguments.to}: expected a name that ends in .png or .html")
    if arguments.num_clips > _MOST_SHOWN:
        raise UserError(
            f"--num-clips={arguments.num_clips} is more than {_MOST_SHOWN}; --seed shows others"
        )
    check_file(arguments.to, makes_folder=False)
    from trn_jax import checks
    from trn_jax.evaluation import clip_sheet, drawing, show
    from trn_jax.files import write_bytes

    config = _config_of_data(arguments)
    if arguments.seed is not None:
        config.seed = arguments.seed
    checks.check(config)
    chosen = dict(view=arguments.view, split=arguments.split, num_clips=arguments.num_clips)
    sheet, problems = show.show(config, "runs/show", **chosen)
    if kind == ".png":
        write_bytes(arguments.to, drawing.encode_png(clip_sheet.picture(sheet)))
        if clip_sheet.lacks_letters(sheet):
            print("the font has no letters for some names; --to=clips.html has", file=sys.stderr)
    else:
        write_bytes(arguments.to, clip_sheet.page(sheet).encode())
    if arguments.json:
        content = dict(file=arguments.to, clips=clip_sheet.to_dicts(sheet), problems=problems)
        print(json.dumps(content, indent=1))
    else:
        print(sheet.title, *map(escaped, sheet.notes), arguments.to, sep="\n")
        for problem in problems:
            log(problem)
    return 1 if problems else 0


def _config_of_data(arguments):
    """The configuration for a folder of data, or of a recipe.

    Raises:
        UserError: the folder has no lists, or there is neither a folder nor a recipe.
    """
    from trn_jax.config import recipe_names
    from trn_jax.data import datasets
    from trn_jax.recipe_flags import may_be_recipe

    place = arguments.data
    if place is None or not os.path.isdir(place):
        if place is not None and not may_be_recipe(place):
            found = os.path.exists(place)
            hint = f"; {_prepare_first(place)}" if found else did_you_mean(place, recipe_names())
            raise UserError(f"{place} is neither a folder nor a recipe of `trn-jax recipes`{hint}")
        arguments.recipe = place
        return read_recipe(arguments)
    dataset = datasets.detect(place)
    if dataset is None:
        raise UserError(f"{place} has no list of training videos; {_prepare_first(place)}")
    arguments.recipe = None
    given = arguments.config
    arguments.config = given or "finetune"
    config = read_recipe(arguments)
    config.data_dir = place
    if given is None and config.data.dataset == "frames":
        config.data.dataset = dataset
    return config


def _prepare_first(place):
    return (
        f"run `trn-jax prepare {place} --to=data/mine`, then `trn-jax show data/mine`; for lists "
        "of other names, give the recipe and --config.data_dir"
    )


def add_records(commands):
    """`trn-jax records`."""
    parser = commands.add_parser(
        "records",
        help="pack a prepared data set into a few large files, which TFDS reads, too",
        description="Pack a prepared data set into a few large files, which TFDS reads, too. The "
        "same command resumes. Exits with 1 if unreadable videos were left out.",
    )
    add = parser.add_argument
    add("data_dir", help="folder of the data set, with its lists")
    add("--to", required=True, help="folder of TFDS's data sets; the records get a folder in it")
    add("--dataset", default="frames", help="public data set, such as sthv1; default: your own")
    add("--multi-label", action="store_true", help="lists have several labels per video")
    add(
        "--short-side",
        type=positive,
        default=0,
        help="scale larger frames of video files down to this, in pixels",
    )
    add("--quality", type=positive, default=95, help="JPEG quality for video files; default: 95")
    for field in _FILE_FLAGS:
        add(f"--{field.replace('_', '-')}", help=f"as data.{field}; default: of the data set")
    add("--first-frame", type=int, help="as data.first_frame; default: of the data set")
    add("--with-offset", action="store_true", help=f"as data.with_offset: {_WITH_OFFSET}")
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
            files={field: getattr(arguments, field) for field in (*_FILE_FLAGS, *_NUMBERING)},
            left_out=left_out,
        )
    print(summary)
    return 1 if left_out else 0
