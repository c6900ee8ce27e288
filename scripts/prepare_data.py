"""Make a data set that can be trained on from its archives as distributed.

    python scripts/prepare_data.py jester --archives=downloads/jester --to=data/jester
    python scripts/prepare_data.py --help

Archives are unpacked, lists and names of classes written, and the next command printed. Interrupted
at any point, the same command goes on; run once more, it finds that there is nothing to do.

Videos that aren't there are listed in `<to>/missing.txt` (path and class), and those that can't be
read, such as broken files and folders of frames with gaps, in `<to>/unreadable.txt` (path and
reason). Neither are in the lists; the exit status is 1 if any are unreadable.

With --records, the videos are also put into records, below `<to>/records`: those of the lists that
the printed command trains on, or, as long as there are videos and no frames, the videos themselves.
"""

import argparse
import pathlib
import sys


def main(arguments=None):
    """Entry point; returns the exit status."""
    from trn_jax.cli import exit_status, positive, prepare_archives
    from trn_jax.prepare import PREPARATIONS
    from trn_jax.prepare.frames import Settings
    from trn_jax.prepare.lists import ORDERS
    from trn_jax.prepare.processes import num_processors

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=sorted(PREPARATIONS))
    parser.add_argument("--archives", required=True, help="folder with what was downloaded")
    parser.add_argument("--to", required=True, help="folder of the data set, such as data/jester")
    parser.add_argument(
        "--workers",
        type=positive,
        default=num_processors(),
        help="processes; by default %(default)s",
    )
    parser.add_argument(
        "--order",
        choices=(*ORDERS, "both"),
        default="both",
        help="of the labels: that of the data set's own file, of mmaction2's weights; alphabetical,"
        " of TRN's; default: lists of both, under different names",
    )
    parser.add_argument(
        "--records",
        action="store_true",
        help="make records, too, see `trn-jax records`; of the label order that the printed recipe "
        "takes, and of videos if there are no frames yet, larger ones scaled to "
        f"{Settings().short_side} pixels",
    )
    parser.add_argument(
        "--skip-video-check",
        action="store_true",
        help="don't open the video files (about ten milliseconds each); lists have the unreadable "
        "ones, too, then",
    )
    chosen = parser.parse_args(arguments)

    def prepare():
        return prepare_archives(
            chosen.dataset,
            chosen.archives,
            chosen.to,
            workers=chosen.workers,
            orders=ORDERS if chosen.order == "both" else (chosen.order,),
            records=chosen.records,
            check=not chosen.skip_video_check,
        )

    return exit_status(prepare, stopped="stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    sys.exit(main())
