"""`trn-jax features`: vectors of videos, per frame or per clip."""

from trn_jax.cli.arguments import CHECKPOINT, add_sampling, check_unused, sampling_of
from trn_jax.errors import log
from trn_jax.files import check_file


def add_features(commands):
    """`trn-jax features SOURCE... --checkpoint=PATH --to=FILE`."""
    parser = commands.add_parser(
        "features",
        help="compute a feature vector per frame or clip of videos",
        description="Compute the features of videos, the output of the backbone: a row per frame "
        "or clip with the name of the video, the time in seconds and a vector. The same command "
        "resumes. Exits with 1 if a video could not be read.",
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="video, folder (of videos, frames or records), list (.txt, .csv, .tsv, .json), or "
        "pattern such as 'clips/*.mp4'",
    )
    add(
        "--checkpoint",
        required=True,
        help=CHECKPOINT,
    )
    add("--to", metavar="FILE", required=True, help=".npz, or .parquet, which needs pyarrow")
    add(
        "--per",
        choices=("frame", "clip"),
        help="default: frame, or clip if the backbone exchanges features among frames",
    )
    add("--every", type=float, help="seconds between rows; default: the frames of the view")
    add_sampling(parser)
    parser.set_defaults(
        run=_features,
        stopped="stopped; the same command resumes",
        default_of=parser.get_default,
    )


def _features(arguments):
    from trn_jax.prediction.feature_files import FeatureFile, kind_of

    kind_of(arguments.to)  # before what takes long
    check_file(arguments.to)
    _check_flags(arguments)

    from trn_jax.data import memory

    memory.keep()  # before the other imports, which start threads
    from trn_jax.checkpoints.checkpoint import open_checkpoint
    from trn_jax.distributed.compilation_cache import keep_programs
    from trn_jax.prediction.features import FeatureExtractor
    from trn_jax.progress import Progress

    opened = open_checkpoint(arguments.checkpoint)
    log(f"features of {opened}")
    keep_programs(arguments.to)
    extractor = FeatureExtractor(
        opened.path,
        per=arguments.per,
        every=arguments.every,
        **sampling_of(arguments),
    )
    for line in (extractor.contract, *extractor.contract.changes):
        log(line)
    inputs = extractor.find(arguments.sources)
    num_unreadable = 0
    with FeatureFile(arguments.to, extractor.about) as file:
        left = [each for each in inputs if each.name not in file.done]
        if len(left) < len(inputs):
            log(f"{len(inputs) - len(left)} of {len(inputs)} videos are done")
        with Progress("Features", len(left), "videos") as progress:
            for found in extractor(left):
                progress.add()
                for note in found.notes:
                    log(note)
                if found.problem:
                    num_unreadable += 1
                    log(f"unreadable: {found.problem}")
                else:
                    file.add(found)
        num_rows = file.finish()
    print(f"{num_rows:,} vectors of {len(file.done):,} videos, per {extractor.per}: {file.path}")
    if num_unreadable:
        log(f"{num_unreadable} of {len(inputs)} videos could not be read")
    return 1 if num_unreadable else 0


def _check_flags(arguments):
    """Refuse flags that have no effect with the others."""
    if arguments.every is None:
        reason = "is the length of the clips of --every; add that, or leave it out"
        check_unused(arguments, ("seconds",), reason)
        return
    reason = "is for the frames of the view, not with --every; leave it out"
    check_unused(arguments, ("num_threads",), reason)
    if arguments.per == "frame":
        reason = "is for clips, not with --per=frame and --every; leave it out"
        check_unused(arguments, ("seconds", "num_segments"), reason)
