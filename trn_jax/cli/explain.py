"""`trn-jax explain`: which frames, which order and which places decide."""

import json

from trn_jax.cli.arguments import (
    CHECKPOINT,
    add_json,
    add_sampling,
    check_unused,
    positive,
    sampling_of,
)
from trn_jax.errors import UserError, log
from trn_jax.files import check_file

_OF_VIDEOS = ("classes", "orders", "stage", "frame_rate", "num_segments", "crop", "short_side")
_OF_CARD = ("split", "num_videos", "workdir")


def add_explain(commands):
    """`trn-jax explain VIDEO... --checkpoint=PATH`."""
    parser = commands.add_parser(
        "explain",
        help="explain predictions: which frames decide, whether their order does, and where",
        description="Explain the classes of videos: how much each frame adds to the score, the "
        "representative frames of a TRN, scores of the frames in other orders and of the beginning "
        "of the video, and where the model looks. With --dataset: the accuracy of each class with "
        "the frames of all videos forward, reversed, shuffled and frozen. Exits with 1 if a video "
        "could not be read.",
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="video, folder (of videos, frames or records), list (.txt, .csv, .tsv, .json), or "
        "pattern such as 'clips/*.mp4'",
    )
    add("--checkpoint", required=True, help=CHECKPOINT)
    add("--to", metavar="FILE", help="also write an HTML page, such as page.html")
    add(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="names or numbers of classes to explain besides the predicted one",
    )
    add(
        "--orders",
        type=positive,
        help="orders in which frames are added, for TSM, TIN and TPN; an even number, at least 4; "
        "default: 16",
    )
    add("--shuffles", type=positive, help="random orders of the frames; default: 20")
    add("--stage", type=int, help="stage of the backbone for activation maps; -1: the last")
    add(
        "--dataset",
        nargs="?",
        const="",
        metavar="DIR",
        help="accuracy by order of the frames for a data set, by default that of the checkpoint",
    )
    add(
        "--split",
        choices=("val", "test", "train"),
        default="val",
        help="with --dataset; default: val",
    )
    add("--num-videos", type=positive, help="with --dataset, spread over the list; default: all")
    add("--workdir", help="with --dataset: folder for results/order.json; default: the training's")
    add_sampling(parser, seconds=False)
    add_json(parser)
    parser.set_defaults(run=_explain, default_of=parser.get_default)


def _explain(arguments):
    if arguments.to is not None:
        if not arguments.to.lower().endswith((".html", ".htm")):
            raise UserError(f"--to={arguments.to}: expected the name of a page, such as page.html")
        check_file(arguments.to)
    if arguments.dataset is not None:
        if arguments.sources:
            raise UserError(
                f"SOURCE {arguments.sources[0]!r} has no effect with --dataset, which scores the "
                "videos of a list; leave one out"
            )
        reason = "is for videos, and has no effect with --dataset; leave it out"
        check_unused(arguments, _OF_VIDEOS, reason)
        return _explain_dataset(arguments)
    check_unused(arguments, _OF_CARD, "is for --dataset; add that, or leave it out")
    if not arguments.sources:
        raise UserError(
            "explain needs videos, trn-jax explain clip.mp4 --checkpoint=runs/mine, or --dataset"
        )
    return _explain_videos(arguments)


def _explain_videos(arguments):
    from trn_jax.data import memory

    memory.keep()  # before the other imports, which start threads
    from trn_jax.checkpoints.checkpoint import open_checkpoint
    from trn_jax.explanation.api import Explainer
    from trn_jax.explanation.page import ExplanationPage
    from trn_jax.explanation.summary import text_of
    from trn_jax.pages.page import write_page

    opened = open_checkpoint(arguments.checkpoint)
    log(f"explaining {opened}")
    names = {"num_orders": arguments.orders, "num_shuffles": arguments.shuffles}
    options = {key: value for key, value in names.items() if value is not None}
    explainer = Explainer(
        arguments.checkpoint,
        classes=arguments.classes,
        stage=arguments.stage,
        **options,
        **sampling_of(arguments),
    )
    for line in (explainer.contract, *explainer.contract.changes, *explainer.notes):
        log(line)
    about = [("checkpoint", str(opened)), ("model", explainer.model.info.config["model"]["name"])]
    page = ExplanationPage(explainer, about=about)
    num_unreadable = 0
    for each in explainer(explainer.find(arguments.sources)):
        for text in each.notes:
            log(text)
        if each.problem:
            num_unreadable += 1
            log(f"unreadable: {each.problem}")
        if arguments.json:
            print(json.dumps(each.to_dict()), flush=True)
        elif not each.problem:
            print(text_of(each), flush=True)
        if arguments.to:
            page.add(each)
    if arguments.to and (text := page.html()):
        write_page(arguments.to, text)
        if page.num_left_out:
            log(
                f"{arguments.to} has no room for {page.num_left_out:,} of the videos, as pages "
                "have at most 10 MB; explain fewer at a time"
            )
        log(f"the page is {arguments.to}")
    return 1 if num_unreadable else 0


def _explain_dataset(arguments):
    from trn_jax.data import memory

    memory.keep()  # before the other imports, which start threads
    from trn_jax.checkpoints import finding
    from trn_jax.explanation.order_card import order_card
    from trn_jax.explanation.order_page import order_page
    from trn_jax.explanation.summary import card_text
    from trn_jax.pages.page import write_page

    options = {} if arguments.shuffles is None else {"num_shuffles": arguments.shuffles}
    found = order_card(
        arguments.checkpoint,
        arguments.workdir or finding.workdir_of(arguments.checkpoint),
        data_dir=arguments.dataset or None,
        split=arguments.split,
        protocol=arguments.protocol,
        num_videos=arguments.num_videos,
        num_threads=arguments.num_threads,
        **options,
    )
    for problem in found.unreadable:
        log(f"unreadable: {problem}")
    print(json.dumps(found.to_dict(), indent=1) if arguments.json else card_text(found))
    log(f"the card is {found.path}")
    if arguments.to:
        write_page(arguments.to, order_page(found))
        log(f"the page is {arguments.to}")
    return 1 if found.unreadable else 0
