"""`trn-jax train`, `eval`, `calibrate`, `probe`, `plan` and `recipes`: what reads a recipe."""

import json
import os

from trn_jax.cli.arguments import CHECKPOINT, add_dtype, add_json, add_recipe, positive, read_recipe
from trn_jax.errors import UserError, log
from trn_jax.files import check_folder

_SETTINGS = "Settings of the recipe are flags, such as --config.data_dir=data/sthv1"


def add_train(commands):
    """`trn-jax train <recipe>`."""
    parser = commands.add_parser(
        "train",
        help="train a recipe; the same command resumes",
        description="Train a recipe. The same command resumes a training that was interrupted.",
        epilog=f"{_SETTINGS}. python -m trn_jax.main --help lists further flags.",
    )
    parser.add_argument("recipe", help="name, see `trn-jax recipes`, or path of a file")
    parser.add_argument("--workdir", help="folder of the run; default: runs/<recipe>")
    parser.set_defaults(run=_train, takes_settings=True)


def _train(arguments):
    return _main(arguments, "--mode=train", f"--config={arguments.recipe}")


def add_eval(commands):
    """`trn-jax eval <checkpoint>`."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a checkpoint by its protocols",
        description="Evaluate a checkpoint by the protocols of its recipe. Exits with 1 if videos "
        "could not be read; they count as wrong.",
        epilog="Settings of its configuration are flags, such as --config.data.val_list=other.txt; "
        "--config=<recipe> replaces it. python -m trn_jax.main --help lists further flags.",
    )
    parser.add_argument(
        "checkpoint",
        help=CHECKPOINT,
    )
    parser.add_argument("--protocol", help="names, separated by commas; default: all")
    parser.add_argument("--split", choices=("val", "test", "train"), help="default: val")
    parser.add_argument("--workdir", help="folder for the results; default: that of the training")
    parser.add_argument("--dump", help="file for the scores of every video: .npz, .json or .pkl")
    add_dtype(parser)
    parser.add_argument(
        "--streamed",
        action="store_true",
        help="also evaluate frame by frame, as a stream, and how early videos are recognised",
    )
    parser.add_argument(
        "--pooling",
        choices=("window", "mean", "exponential"),
        help="with --streamed: frames whose features TSN and TSM average: all so far, equally "
        "(mean, the default) or with falling weights (exponential), or as many as a clip has "
        "(window)",
    )
    add_json(parser)
    parser.set_defaults(run=_eval, takes_settings=True)


def _eval(arguments):
    flags = ["--mode=eval", f"--checkpoint={arguments.checkpoint}"]
    flags += [
        f"--{name}={getattr(arguments, name)}"
        for name in ("protocol", "split", "dump", "dtype", "pooling")
        if getattr(arguments, name) is not None
    ]
    flags += [f"--{name}" for name in ("json", "streamed") if getattr(arguments, name)]
    return _main(arguments, *flags)


def add_calibrate(commands):
    """`trn-jax calibrate <checkpoint>`."""
    parser = commands.add_parser(
        "calibrate",
        help="fit temperature and thresholds, by which predict names no class if none fits",
        description="Evaluate a checkpoint by one protocol, fit a temperature (lowest negative log "
        "likelihood) and a threshold per class (highest F1) to the scores, and store them in the "
        "checkpoint as calibration.json. Training does so at every evaluation; this is for "
        "converted and older checkpoints and for other lists. Exits with 1 if videos could not be "
        "read; they don't count.",
        epilog="Settings of its configuration are flags, such as --config.data_dir=data/mine; "
        "--config=<recipe> replaces it.",
    )
    parser.add_argument(
        "checkpoint",
        help="working directory of a training, <directory>@best, <directory>@<step>, or hub folder",
    )
    parser.add_argument(
        "--protocol", help="protocol of the recipe; default: the one with the fewest views"
    )
    parser.add_argument("--split", choices=("val", "test", "train"), help="default: val")
    add_dtype(parser)
    add_json(parser)
    parser.set_defaults(run=_calibrate, takes_settings=True, workdir=None)


def _calibrate(arguments):
    flags = ["--mode=calibrate", f"--checkpoint={arguments.checkpoint}"]
    flags += [
        f"--{name}={getattr(arguments, name)}"
        for name in ("protocol", "split", "dtype")
        if getattr(arguments, name) is not None
    ]
    return _main(arguments, *flags, *(["--json"] if arguments.json else []))


def _main(arguments, *flags):
    from trn_jax import main

    own = [] if arguments.workdir is None else [f"--workdir={arguments.workdir}"]
    return main.run(["trn-jax", *flags, *own, *arguments.settings])


def add_probe(commands):
    """`trn-jax probe DATA --checkpoint=PATH`."""
    parser = commands.add_parser(
        "probe",
        help="train a head on the features of a frozen backbone",
        description="Train a head on the features of a frozen backbone. Passes over the training "
        "videos, augmented as in training, compute the features once; then epochs are "
        "fast. The new checkpoint has the whole model. The same command resumes; "
        "with other settings of the head it reuses the features and replaces the head. Exits with "
        "1 if videos are unreadable or have lost frames.",
        epilog=f"{_SETTINGS} or --config.optim.lr=0.05.",
    )
    add = parser.add_argument
    add("data", help="folder from `trn-jax prepare`, or name or file of a recipe")
    add(
        "--checkpoint",
        required=True,
        help=f"{CHECKPOINT}; its backbone is used, and it needs no head",
    )
    add(
        "--head",
        choices=("trn", "tsn"),
        default="trn",
        help="head; trn is multi-scale; default: trn",
    )
    add("--config", metavar="RECIPE", help="for data and views; default: views of the checkpoint")
    add("--passes", type=positive, default=1, help="passes over the training videos; default: 1")
    add(
        "--workdir", default="runs/probe", help="for features and checkpoints; default: %(default)s"
    )
    add_json(parser)
    parser.set_defaults(
        run=_probe, takes_settings=True, stopped="stopped; the same command resumes"
    )


def _probe(arguments):
    from trn_jax.data import memory

    check_folder(arguments.workdir, "--workdir")
    memory.keep()  # before the other imports, which start threads
    from trn_jax.checkpoints.checkpoint import open_checkpoint
    from trn_jax.distributed.compilation_cache import keep_programs
    from trn_jax.evaluation.tables import title_of
    from trn_jax.probing.probe import probe
    from trn_jax.probing.settings import probe_config

    opened = open_checkpoint(arguments.checkpoint)
    log(f"features of {opened}")
    config = probe_config(
        opened.info["config"],
        arguments.head,
        checkpoint=opened.path,
        data=arguments.data,
        recipe=arguments.config,
        settings=arguments.settings,
    )
    keep_programs(arguments.workdir)
    found = probe(config, opened, arguments.workdir, passes=arguments.passes)
    for message in found.messages:
        log(message)
    if arguments.json:
        print(json.dumps(vars(found), indent=1))
        return 1 if found.messages else 0
    for kind, step, metrics in (
        ("last", found.step, found.metrics),
        ("best", found.best_step, found.best_metrics),
    ):
        shares = "  ".join(f"{title_of(each)} {100 * metrics[each]:.2f} %" for each in metrics)
        print(f"{kind}: step {step}  val  {shares}")
    print(f"evaluate it: trn-jax eval {arguments.workdir}@best")
    return 1 if found.messages else 0


def add_plan(commands):
    """`trn-jax plan`."""
    parser = commands.add_parser(
        "plan",
        help="print memory, FLOPs and communication of a recipe on devices that are not attached",
        description="Compile the training step and the evaluation of a recipe for a topology, and "
        "print memory, FLOPs, memory traffic and communication per chip, and the largest batch. "
        "Nothing runs. A large network takes minutes.",
        epilog="Settings of the recipe are flags as in training, such as --config.model.remat=2; "
        "model.dtype=auto is resolved for the topology. No TPU or GPU is needed, but pip install "
        "'trn_jax[plan]' for TPUs and 'trn_jax[plan-gpu]' for GPUs.",
    )
    add_recipe(parser)
    topologies = "such as v5e:4x4 (TPUs), h100:8 (GPUs), cpu:8, or gpu for those attached"
    parser.add_argument("--topology", required=True, help=topologies)
    parser.add_argument("--batch", type=positive, help="clips per step; default: the recipe's")
    add_json(parser)
    parser.set_defaults(run=_plan)


def _plan(arguments):
    from trn_jax.planning.plan import make_plan

    config = read_recipe(arguments)
    if arguments.batch:
        config.train.batch = arguments.batch
    plan = make_plan(config, arguments.topology)
    print(json.dumps(plan.to_dict(), indent=1) if arguments.json else plan)


def add_recipes(commands):
    """`trn-jax recipes`."""
    parser = commands.add_parser(
        "recipes",
        help="list the recipes, or copy one to change it",
        description="List the recipes, or copy one to change it.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="of names, such as 'tsm_*'")
    parser.add_argument(
        "--copy", nargs=2, metavar=("NAME", "FILE"), help="write the recipe NAME to a new FILE"
    )
    add_json(parser)
    parser.set_defaults(run=_recipes)


def _recipes(arguments):
    import fnmatch

    from trn_jax import config

    if arguments.copy:
        return _copy(*arguments.copy)
    names = fnmatch.filter(config.recipe_names(), arguments.pattern)
    if not names:
        raise UserError(f"no recipe is called {arguments.pattern!r}; see `trn-jax recipes`")
    rows = []
    for name in names:
        recipe = config.recipe(name)
        found = recipe.get_config()
        published = {
            protocol: {key: row[key] for key in ("top1", "top5", "mAP") if key in row}
            for protocol, row in found.published.to_dict().items()
        }
        about = recipe.__doc__.splitlines()[0].rstrip(".")
        rows.append(dict(name=name, about=about, model=found.model.name, published=published))
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:{width}}  {row['about']}")
    return 0


def _copy(name, file):
    from trn_jax.config import recipe_file
    from trn_jax.files import write_text

    if os.path.exists(file):
        raise UserError(f"{file} exists; give the name of a new file")
    if not file.endswith(".py"):
        raise UserError(f"{file}: the name of a recipe's file ends in .py")
    write_text(file, recipe_file(name).read_text(encoding="utf-8"))
    print(f"wrote {file}; train it with: trn-jax train {file}")
    return 0
