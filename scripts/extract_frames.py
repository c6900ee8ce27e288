"""Write the frames of videos as folders of JPEGs, which is what training reads.

    python scripts/extract_frames.py data/sthv2/videos --to=data/sthv2/rawframes
    python scripts/extract_frames.py videos.txt --to=frames --short-side=128 --fps=12

`<to>/manifest.jsonl` tells for each video its hash and how many frames of which size there are.
Interrupted at any point, the same command goes on. Videos that cannot be read are named, in
`<to>/unreadable.txt`, too; the others are extracted all the same, and the exit status is 1.
"""

import argparse
import pathlib
import sys


def main(arguments=None):
    """Entry point; returns the exit status."""
    from trn_jax.cli import exit_status, positive
    from trn_jax.prepare import frames
    from trn_jax.prepare.processes import num_processors
    from trn_jax.prepare.target import claim

    usual = frames.Settings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", help="a folder, or a list with the path of a video per line")
    parser.add_argument("--to", required=True, help="folder for the folders of frames")
    parser.add_argument(
        "--short-side",
        type=int,
        default=usual.short_side,
        help="pixels of the shorter side; 0: as in the video; by default %(default)s",
    )
    parser.add_argument(
        "--quality", type=int, default=usual.quality, help="of the JPEGs; by default %(default)s"
    )
    parser.add_argument("--fps", type=float, help="frames per second; by default all frames")
    parser.add_argument(
        "--pattern", default=usual.pattern, help="names of the frames; by default %(default)s"
    )
    parser.add_argument(
        "--workers", type=positive, default=num_processors(), help="processes; one per processor"
    )
    chosen = parser.parse_args(arguments)

    def extract():
        settings = frames.Settings(chosen.short_side, chosen.quality, chosen.fps, chosen.pattern)
        root, names = frames.find_sources(chosen.videos)
        with claim(chosen.to):
            written, kept, unreadable = frames.extract(
                root, names, chosen.to, settings, workers=chosen.workers, report=_say
            )
        print(
            f"{written:,} videos extracted to {chosen.to}, {kept:,} were there already, "
            f"{len(unreadable):,} are unreadable"
            + (f" (see {chosen.to}/{frames.UNREADABLE})" if unreadable else "")
        )
        return 1 if unreadable else 0

    return exit_status(extract, stopped="stopped; the same command goes on from here")


def _say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    sys.exit(main())
