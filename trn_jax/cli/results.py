"""`trn-jax report` and `ensemble`: results of evaluations."""

import json

from trn_jax.cli.arguments import add_json, positive


def add_ensemble(commands):
    """`trn-jax ensemble`."""
    parser = commands.add_parser("ensemble", help="fuse the scores of several evaluations")
    parser.add_argument(
        "files", nargs="+", help="scores of the same videos, from `trn-jax eval --dump`"
    )
    parser.add_argument("--weights", type=float, nargs="+", help="one per file; default: equal")
    parser.add_argument("--dump", help="file for the fused scores: .npz, .json or .pkl")
    parser.set_defaults(run=_ensemble)


def _ensemble(arguments):
    from trn_jax.evaluation import fusion, report, score_files

    if arguments.dump:
        score_files.check_dump(arguments.dump)
    parts = [(path, score_files.read(path)) for path in arguments.files]
    fused = fusion.fuse(parts, arguments.weights)
    print(report.fusion_table([*parts, ("fusion", fused)]))
    if arguments.dump:
        score_files.write(arguments.dump, fused)
        print(f"\nscores in {arguments.dump}")


def add_report(commands):
    """`trn-jax report`."""
    parser = commands.add_parser(
        "report", help="per-class accuracy, confusion matrix and training curves"
    )
    parser.add_argument("path", help="working directory, folder of results, result or scores")
    parser.add_argument("--to", help="folder; default: report, in or beside PATH")
    parser.add_argument("--top-k", type=positive, nargs="+", default=[1, 5], help="default: 1 5")
    add_json(parser)
    parser.set_defaults(run=_report)


def _report(arguments):
    from trn_jax.evaluation.report import read_results, write_report

    text, files = write_report(arguments.path, arguments.to, top_k=arguments.top_k)
    if arguments.json:
        results = read_results(arguments.path, top_k=arguments.top_k)
        print(json.dumps(dict(results=results, files=files), indent=1))
        return
    print(text, *files, sep="\n")
