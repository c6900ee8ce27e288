"""`trn-jax report` and `ensemble`: results of evaluations."""

import json

from trn_jax.cli.arguments import add_json, check_unused, positive
from trn_jax.errors import UserError


def add_ensemble(commands):
    """`trn-jax ensemble`."""
    parser = commands.add_parser(
        "ensemble",
        help="fuse the scores of several evaluations",
        description="Average the scores of several evaluations, and print the accuracy of each and "
        "of the fusion.",
    )
    parser.add_argument(
        "files", nargs="+", help="scores of the same videos, from `trn-jax eval --dump`"
    )
    parser.add_argument("--weights", type=float, nargs="+", help="one per file; default: equal")
    parser.add_argument("--dump", help="file for the fused scores: .npz, .json or .pkl")
    parser.set_defaults(run=_ensemble)


def _ensemble(arguments):
    from trn_jax.evaluation import fusion, score_files, tables

    if arguments.dump:
        score_files.check_dump(arguments.dump)
    parts = [(path, score_files.read(path)) for path in arguments.files]
    fused = fusion.fuse(parts, arguments.weights)
    print(tables.fusion_table([*parts, ("fusion", fused)]))
    if arguments.dump:
        score_files.write(arguments.dump, fused)
        print(f"\nscores in {arguments.dump}")


def add_report(commands):
    """`trn-jax report`."""
    parser = commands.add_parser(
        "report",
        help="write an HTML page on a run: classes, confusions, calibration, curves; score events",
        description="Write an HTML page on a run: classes, confusions, calibration and training "
        "curves. With --truth: score predicted events.",
        epilog="With --truth, both tables have the columns video,start,end,label, times in seconds "
        "or h:mm:ss.mmm; PATH also has the column score. The report has mean average precision at "
        "temporal IoU 0.3, 0.4, ... 0.7, F1 of events at IoU 0.5, and the fraction of the time "
        "with the right label. The exit status is 1 if a predicted video is not in the truth.",
    )
    parser.add_argument(
        "path",
        help="working directory, folder of results, result or scores; with --truth: table of "
        "predicted events (.csv, .tsv), or the folder of events.csv",
    )
    parser.add_argument(
        "against", nargs="?", metavar="PATH2", help="a second run: the page shows the difference"
    )
    parser.add_argument("--truth", metavar="TABLE", help="true events (.csv, .tsv)")
    parser.add_argument(
        "--to",
        help="file .html, for the page alone, or folder; default: report, in or beside PATH",
    )
    parser.add_argument(
        "--protocol",
        help="protocol that the page shows in detail; default: the first with frames in order",
    )
    parser.add_argument(
        "--top-k", type=positive, nargs="+", help="accuracies to compute from scores; default: 1 5"
    )
    parser.add_argument(
        "--png", action="store_true", help="also draw figures for papers (extra `report`)"
    )
    add_json(parser)
    parser.set_defaults(run=_report, default_of=parser.get_default)


def _report(arguments):
    if arguments.truth:
        return _report_events(arguments)
    from trn_jax.reporting.report import make_report

    options = dict(against=arguments.against, protocol=arguments.protocol, figures=arguments.png)
    found = make_report(arguments.path, arguments.to, **options, top_k=arguments.top_k or [1, 5])
    if arguments.json:
        entries = dict(results=found.results, files=found.files, page=found.page)
        entries |= {"difference": found.difference} if found.difference else {}
        print(json.dumps(entries, indent=1))
    else:
        print(found.text, found.page, *found.files, sep="\n")
    return 0


def _report_events(arguments):
    reason = "is for scores, which events, with --truth, don't have"
    check_unused(arguments, ["top_k", "protocol", "png"], reason)
    if arguments.against:
        raise UserError(f"{arguments.against!r}: a second run {reason}")
    from trn_jax.reporting.event_report import make_event_report

    name, result, text, page, files = make_event_report(
        arguments.path, arguments.truth, arguments.to
    )
    if arguments.json:
        print(json.dumps(dict(results={name: result}, files=files, page=page), indent=1))
    else:
        print(text, page, *files, sep="\n")
    return 1 if result["left_out"] else 0
