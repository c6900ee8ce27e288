"""`trn-jax <command>`: what there is to do around training.

    trn-jax convert --from=model.pth --model=trn_resnet50 --to=converted --verify
    trn-jax reparameterize runs/mobileone --to=deployed
    trn-jax models
    trn-jax ensemble a.npz b.npz --weights 2 1
    trn-jax report runs/trn
    trn-jax prepare myvideos --to=data/mine
    trn-jax check --config=configs/trn_sthv1.py --config.data_dir=data/sthv1
    trn-jax records data/mine --to=data/records
    trn-jax plan --config=configs/trn_sthv1.py --topology=v5e:4x4

Training and evaluation are `python -m trn_jax.main`.
"""

import argparse
import os
import sys
from functools import partial

from trn_jax.errors import UserError, escaped


def main(arguments=None):
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="trn-jax", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in _COMMANDS:
        add(commands)
    chosen, others = parser.parse_known_args(arguments)
    if others and chosen.run not in (_check, _plan):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    chosen.recipe_flags = others
    return exit_status(lambda: chosen.run(chosen))


def exit_status(command, stopped="stopped"):
    """Run a command, and tell of what goes wrong in one line.

    Args:
        command: gives its exit status, or `None` for 0.
        stopped: what to say if a person stops it.

    Returns:
        Its exit status, 2 after an error of a person or of the disk, or 130 if it was stopped.
    """
    try:
        status = command() or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Who read the output has had enough, as `| head` does; nothing more can be written there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {error}; mend that and run the same command again", file=sys.stderr)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 2


def positive(text):
    """A count on the command line, for `argparse`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


_MAX_CLASSES = 100_000  # that are taken from a file unasked: a model may be larger than its file

# Imports are inside, so that `--help` and wrong arguments are answered at once.


def _add_convert(commands):
    parser = commands.add_parser(
        "convert", help="turn weights of PyTorch into a checkpoint that can be evaluated"
    )
    parser.add_argument("--from", required=True, dest="file", help=".pth, .safetensors or .npz")
    parser.add_argument("--model", required=True, help="name of the model, see `trn-jax models`")
    parser.add_argument("--to", required=True, help="folder of the checkpoint; must not exist")
    parser.add_argument("--num-classes", type=positive, help="by default those of the file")
    parser.add_argument(
        "--num-segments", type=positive, help="frames of a clip; by default the file's"
    )
    parser.add_argument("--classes", help="file with the name of one class per line")
    parser.add_argument("--source", default="auto", help="code base that the names come from")
    parser.add_argument(
        "--key", help="which network to take, if the file has several: state_dict_ema"
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="replace a part of the names of tensors; OLD is a regular expression: '^encoder\\.=' "
        "cuts a beginning off, gamma=weight replaces all of these; may be given several times",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave these tensors unread, such as 'projector.*'; may be given several times",
    )
    parser.add_argument(
        "--take-classifier",
        action="store_true",
        help="take the classifier of an image network as the head of a TSN or TSM",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare the result with PyTorch, which this needs"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the model, such as shift_place=block or causal=true, see config.model in "
        "trn_jax/config.py; may be given several times",
    )
    for part, what in (
        ("reset-head", "the classifiers, such as one for other classes"),
        ("reset-temporal-op", "the parameters of the temporal op: weights of TSM start a TIN"),
        ("backbone-only", "neck and head, and the temporal op if the file has none"),
    ):
        parser.add_argument(
            f"--{part}", action="store_true", help=f"take the rest of the file; draw {what}"
        )
    parser.set_defaults(run=_convert)


def _convert(arguments):
    from trn_jax import checkpoint, convert

    kept = ("reset_head", "reset_temporal_op", "backbone_only")
    drawn = {part: getattr(arguments, part) for part in kept}
    if arguments.verify:
        _check_can_verify(drawn)
        from trn_jax import verify  # says so if PyTorch is missing, before anything is done
    rename = [tuple(text.rpartition("=")[::2]) for text in arguments.rename]
    if wrong := [text for text in arguments.rename if not text.rpartition("=")[0]]:
        raise UserError(f"--rename={wrong[0]}: expected --rename=OLD=NEW")
    file = convert.read_torch_file(arguments.file, arguments.key)
    weights, origins = convert.selected(file, rename=rename, ignore=arguments.ignore)
    recipe, names = _recipe_of(arguments, convert.shapes(weights, arguments.source))
    model = _fresh_model(recipe, whole=any(drawn.values()))
    options = dict(drawn, take_classifier=arguments.take_classifier)
    rows = convert.load_state_dict(model, weights, arguments.source, **options)
    about = {
        "config": recipe.to_dict(),
        "class_names": names,
        "source": {"file": arguments.file, "sha256": convert.file_sha256(arguments.file)},
    }
    check = None
    if arguments.verify:
        places = dict(file=arguments.file, weights=weights, origins=origins, rows=rows)
        check = partial(verify.verify, **places, backbone_only=arguments.backbone_only)
    comparison = checkpoint.save_model(arguments.to, model, about, check=check)
    _print_rows(rows, origins)
    num_classes = recipe.model.num_classes
    print(f"{len(rows)} tensors of {arguments.model} with {num_classes} classes: {arguments.to}")
    if arguments.verify:
        print(f"verified: {comparison}")
    _print_notes(arguments, model, weights, rows)


def _check_can_verify(drawn):
    chosen = ["--" + part.replace("_", "-") for part in drawn if drawn[part]]
    if chosen not in ([], ["--backbone-only"]):
        raise UserError(
            "--verify compares whole networks, or backbones (--backbone-only), but with "
            f"{', '.join(chosen)} a part is drawn that the file does not have; leave one out"
        )


def _recipe_of(arguments, shapes):
    """The configuration for what a file holds, and the names of its classes.

    `shapes` are those of the tensors, by the names that the source has for them.
    """
    from trn_jax import config, convert
    from trn_jax.data.annotations import read_class_names
    from trn_jax.recipe import set_model_option

    num_classes = arguments.num_classes or convert.num_classes(shapes)
    if num_classes is None:
        raise UserError(f"{arguments.file} has no classifier that is known; give --num-classes")
    if num_classes > _MAX_CLASSES and not arguments.num_classes:
        raise UserError(
            f"the classifier in {arguments.file} has {num_classes:,} classes, more than "
            f"{_MAX_CLASSES:,}; if that is right, give --num-classes={num_classes}"
        )
    names = read_class_names(arguments.classes) if arguments.classes else []
    if names and len(names) != num_classes:
        raise UserError(f"{arguments.classes} names {len(names)} classes, not {num_classes}")
    recipe = config.base(dataset="frames", model=arguments.model, num_classes=num_classes)
    num_segments = arguments.num_segments or convert.num_segments(shapes)
    if num_segments:
        for section in (recipe.model, recipe.data.train, recipe.data.val):
            section.num_segments = num_segments
        recipe.protocols.efficient.num_segments = num_segments
    for option in arguments.option:
        set_model_option(recipe, option)
    return recipe, names


def _fresh_model(recipe, *, whole):
    """The model of a configuration: `whole`, or only shapes.

    Drawing takes longer than reading: shapes will do where the file has all values.
    """
    from flax import nnx

    from trn_jax.models import create_model

    build = partial(create_model, **recipe.model)
    return nnx.jit(build)() if whole else nnx.eval_shape(build)


def _print_rows(rows, origins):
    """Where each tensor of the file went, with its shape here."""
    lines = [(escaped(origins.get(name, name)), path, shape) for name, path, shape in rows]
    width = max((len(name) for name, _, _ in lines), default=0)
    for name, path, shape in lines:
        print(f"{name:{width}}  {path}  {' x '.join(map(str, shape))}")


def _print_notes(arguments, model, weights, rows):
    """What was not read, what was drawn, and how a TRN draws its relations."""
    from trn_jax import convert

    for line in convert.unread(weights, rows):
        print(line)
    fresh = convert.variables(model).keys() - {path for _, path, _ in rows}
    if fresh:
        print(f"{len(fresh)} variables were drawn, such as {min(fresh)}.")
        if not (arguments.key or arguments.rename or arguments.ignore):
            print(
                "To train such a model, start from the file itself: "
                f"--config.init_from={arguments.file}"
            )
    relations = getattr(model.head, "relations", ())
    if any(relation.num_used < len(relation.table()) for relation in relations):
        print(
            "note: mmaction2 and TRN-pytorch draw the relations of a TRN at random, in evaluation "
            "too, so that their logits vary by about 3 % from run to run. This checkpoint has "
            f"eval_relations={model.head.eval_relations}. To choose: expected (the exact mean over "
            "all draws, reproducible), sample (random draws, as there) or first (the first "
            "relations of each scale), by --option=eval_relations=sample here, or by "
            "--config.model.eval_relations=sample in an evaluation with --config"
        )


def _add_reparameterize(commands):
    parser = commands.add_parser(
        "reparameterize",
        help="fuse the branches of a trained MobileOne: the same scores for less work",
    )
    parser.add_argument("checkpoint", help="checkpoint, or working directory of a training")
    parser.add_argument("--to", required=True, help="folder of the new checkpoint; must not exist")
    parser.set_defaults(run=_reparameterize)


def _reparameterize(arguments):
    from trn_jax import checkpoint, convert

    directory = checkpoint.find(arguments.checkpoint)
    about = checkpoint.read_about(directory)
    if about["config"]["model"].get("deploy"):
        raise UserError(f"{directory} is in deploy form (model.deploy=True): nothing to fuse")
    model, _ = checkpoint.load_model(directory, deploy=True)
    about["config"]["model"]["deploy"] = True
    about["reparameterized_from"] = {
        "checkpoint": str(directory),
        "step": about["step"],
        "metrics": about.pop("metrics", {}),
    }
    checkpoint.save_model(arguments.to, model, about)
    size = sum(variable.size for variable in convert.variables(model).values())
    print(f"fused {directory} into {size:,} parameters: {arguments.to}")


def _add_models(commands):
    parser = commands.add_parser("models", help="list the models with their size and cost")
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'tsm_*'")
    parser.add_argument("--num-classes", type=positive, default=400)
    parser.add_argument("--frames", type=positive, default=8, help="of a clip")
    parser.add_argument("--pixels", type=positive, default=224, help="height and width")
    parser.set_defaults(run=_models)


def _models(arguments):
    from flax import nnx

    from trn_jax.models import cost, create_model, list_models

    names = list_models(arguments.pattern)
    if not names:
        raise UserError(f"no model is called {arguments.pattern!r}; see `trn-jax models`")
    sizes = dict(num_classes=arguments.num_classes, num_segments=arguments.frames)
    clip = (arguments.frames, arguments.pixels, arguments.pixels, 3)
    print(f"{arguments.num_classes} classes; GFLOPs are 10^9 multiply-adds for one clip")
    print(f"{'model':24}{'parameters':>14}{'GFLOPs':>10}  clip")
    for name in names:
        model = nnx.eval_shape(partial(create_model, name, **sizes))
        found = cost.measure(model, 1, *clip)
        size = " x ".join(map(str, clip))
        print(f"{name:24}{found.parameters:14,}{found.flops / 1e9:10.2f}  {size}", flush=True)


def _add_ensemble(commands):
    parser = commands.add_parser("ensemble", help="fuse the scores of several evaluations")
    parser.add_argument("files", nargs="+", help="scores of the same videos, see --dump there")
    parser.add_argument("--weights", type=float, nargs="+", help="one per file; by default equal")
    parser.add_argument("--dump", help="file for the fused scores: .npz, .json or .pkl")
    parser.set_defaults(run=_ensemble)


def _ensemble(arguments):
    from trn_jax import report, scores

    if arguments.dump:
        scores.check_dump(arguments.dump)
    parts = [(path, scores.read(path)) for path in arguments.files]
    fused = scores.fuse(parts, arguments.weights)
    print(report.fusion_table([*parts, ("fusion", fused)]))
    if arguments.dump:
        scores.write(arguments.dump, fused)
        print(f"\nscores in {arguments.dump}")


def _add_report(commands):
    parser = commands.add_parser(
        "report", help="classes, confusions and the course of a training as tables and pictures"
    )
    parser.add_argument("path", help="working directory, folder of results, result or scores")
    parser.add_argument("--to", help="folder; by default 'report' in the directory or beside it")
    parser.add_argument("--top-k", type=positive, nargs="+", default=[1, 5], help="by default 1 5")
    parser.set_defaults(run=_report)


def _report(arguments):
    from trn_jax.report import write_report

    text, files = write_report(arguments.path, arguments.to, top_k=arguments.top_k)
    print(text, *files, sep="\n")


_PREPARE = """Make own videos a data set to train on.

The source is
  a folder of classes    <folder>/<class>/<video>.mp4, with any folders in between; or
                         <folder>/train/<class>/..., val/..., test/...
  a table                .csv, .tsv, .json or .jsonl with a column for the video and one for its
                         class (headers such as video, path, file; label, class, action, gloss);
                         perhaps one for the split (split, subset) with train, val or test
  a list                 .txt with lines "<video> <class>" or "<folder> <frames> <class>"
  a folder of videos     with such a table in it or beside it
  a data set             such as ucf101 or hmdb51, with --archives=<folder of the download>;
                         scripts/prepare_data.py has all options for these

Splits: videos for which the source says train, val or test stay there. Where it has none for
validation, each training video goes to validation or not by a hash of --seed and its path, so that
adding videos moves no other; what the lists in --to have already stays where it is. Test videos are
never trained on, and the best checkpoint is not chosen on them: evaluate them at the end with
python -m trn_jax.main --mode=eval --split=test --checkpoint=<workdir>.

Videos of one person, or cut from one recording, should be in one split. --group-by keeps them
together:
  --group-by=speaker                 a column of the table
  --group-by=level2                  <class>/<person>/<video>: the folders of the second level
  --group-by='(person[0-9]+)_'       what the group of a regular expression finds in the path

Exits with 1 if videos or classes were left out because they can't be read (unreadable.txt).
"""


def _add_prepare(commands):
    parser = commands.add_parser(
        "prepare",
        help="make own videos a data set to train on",
        description=_PREPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="folder, table, list or data set, see above")
    parser.add_argument("--to", required=True, help="folder of the data set")
    parser.add_argument("--archives", help="folder with what was downloaded of a data set")
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
    parser.set_defaults(run=_prepare)


def _prepare(arguments):
    from trn_jax.prepare import PREPARATIONS, own
    from trn_jax.prepare.lists import ORDERS
    from trn_jax.prepare.processes import num_processors
    from trn_jax.prepare.target import claim

    if arguments.archives:
        if arguments.source not in PREPARATIONS:
            raise UserError(
                f"--archives is for data sets of the field, {', '.join(PREPARATIONS)}, of which "
                f"{arguments.source!r} is none"
            )
        workers = arguments.workers or num_processors()
        options = dict(workers=workers, orders=ORDERS, records=arguments.records)
        return prepare_archives(arguments.source, arguments.archives, arguments.to, **options)
    if arguments.source in PREPARATIONS and not os.path.exists(arguments.source):
        raise UserError(f"{arguments.source} needs --archives=<folder with what was downloaded>")
    if arguments.records:
        from trn_jax.tfds.build import build  # says what is missing before the work
    with claim(arguments.to):
        outcome = own.prepare(
            arguments.source,
            arguments.to,
            val_share=arguments.val_share,
            seed=arguments.seed,
            workers=arguments.workers or num_processors(),
            merge_classes=arguments.merge_classes,
            class_level=arguments.class_level,
            group_by=arguments.group_by,
            columns=_columns(arguments.columns),
            videos=arguments.videos,
            multi_label=arguments.multi_label,
        )
        print(outcome, flush=True)
        if arguments.records:
            to = os.path.join(arguments.to, "records")
            made = build(arguments.to, to, files=outcome.naming, multi_label=arguments.multi_label)
            print("records:", made, sep="\n")
    return outcome.status


def prepare_archives(dataset, archives, to, *, workers, orders, records, check=True):
    """Prepare a data set of the field and print what came out.

    Args:
        dataset: one of `trn_jax.prepare.PREPARATIONS`.
        archives: folder with what was downloaded.
        to: folder of the data set.
        workers: number of processes.
        orders: of the labels, some of `lists.ORDERS`.
        records: whether to make records, too.
        check: whether to open video files, and to leave out those that can't be read.

    Returns:
        The exit status: 1 if videos were left out because they can't be read, else 0.
    """
    from trn_jax.prepare import PREPARATIONS
    from trn_jax.prepare.target import claim

    if records:
        from trn_jax.tfds.build import build_prepared  # says what is missing before the work
    with claim(to):
        options = dict(workers=workers, orders=orders, check=check)
        outcome = PREPARATIONS[dataset](archives, to, **options)
        print(outcome, flush=True)
        if records:
            of_videos = outcome.training.source == "videos"
            print("records, of the videos; they need no frames:" if of_videos else "records:")
            print(build_prepared(outcome))
    return outcome.status


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


def _add_records(commands):
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
    from trn_jax.prepare.target import claim
    from trn_jax.tfds.build import build

    fields = ("train_list", "val_list", "test_list", "class_names", "frame_pattern", "first_frame")
    left_out: list[str] = []
    with claim(arguments.to):
        said = build(
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


def _add_check(commands):
    parser = commands.add_parser(
        "check",
        help="look through the videos of a data set for what would disturb a training",
        epilog="Of a recipe: --config=<recipe> and its settings as in training, such as "
        "--config.data_dir=data/mine. Exits with 0 if there is nothing to find, else with 1.",
    )
    parser.add_argument("--list", help="look through a list instead of the data of a recipe")
    parser.add_argument("--videos", help="with --list: folder of its videos or frame folders")
    parser.add_argument("--classes", help="with --list: file with the name of one class per line")
    parser.add_argument("--frame-pattern", default="{:05d}.jpg", help="with --list; %(default)s")
    parser.add_argument("--first-frame", type=int, default=1, help="with --list; %(default)s")
    parser.add_argument("--deep", action="store_true", help="decode all frames, not three a video")
    parser.add_argument(
        "--to", default="check", help="folder for the lists; by default %(default)s"
    )
    parser.set_defaults(run=_check)


def _check(arguments):
    if arguments.list is None:
        from trn_jax import main

        flags = ["--mode=check", f"--to={arguments.to}", *arguments.recipe_flags]
        return main.run(["trn-jax check", *flags, *(["--deep"] if arguments.deep else [])])
    if arguments.recipe_flags or not (arguments.videos and arguments.classes):
        raise UserError("--list needs --videos=<folder> and --classes=<file>, and no recipe")
    from trn_jax.data import annotations, check, decode, videos

    frames = dict(pattern=arguments.frame_pattern, first_frame=arguments.first_frame)
    of_files = annotations.lists_videos(arguments.list)
    source = videos.VideoFiles() if of_files else decode.FrameFolders(**frames)
    findings = check.check(
        {"list": (arguments.list, arguments.videos)},
        source,
        class_names=annotations.read_class_names(arguments.classes),
        deep=arguments.deep,
    )
    return check.report(findings, arguments.to)


def _add_plan(commands):
    parser = commands.add_parser(
        "plan",
        help="compile a recipe for devices that are not here: memory, operations, communication",
        epilog="The recipe and its settings as in training: --config=<recipe> "
        "--config.model.dtype=bfloat16. TPUs need pip install 'trn_jax[plan]', but no TPU; a large "
        "network takes minutes.",
    )
    parser.add_argument("--topology", required=True, help="such as v5e:4x4 (TPUs), cpu:8 or gpu")
    parser.add_argument("--batch", type=positive, help="clips per step; by default the recipe's")
    parser.set_defaults(run=_plan)


def _plan(arguments):
    from trn_jax import main

    flags = ["--mode=plan", f"--topology={arguments.topology}", *arguments.recipe_flags]
    return main.run(
        ["trn-jax plan", *flags, *([f"--batch={arguments.batch}"] if arguments.batch else [])]
    )


_COMMANDS = (
    _add_convert,
    _add_reparameterize,
    _add_models,
    _add_ensemble,
    _add_report,
    _add_prepare,
    _add_check,
    _add_records,
    _add_plan,
)
