"""`trn-jax <command>`: prepare data, train, evaluate, predict, report and convert.

    trn-jax prepare myvideos --to=data/mine
    trn-jax train small --config.data_dir=data/mine
    trn-jax eval runs/small@best
    trn-jax predict myvideos --checkpoint=runs/small@best
    trn-jax --help

Exit statuses: 0; 1 if a command found problems or left something out (unreadable videos), or after
a bug; 2 after a wrong argument or file; 75 after an interruption: the same command resumes; 76 if a
process died or hangs, or another run uses the folder: the same command may work later; 130 after
Ctrl-C.
"""

import os
import sys

from trn_jax.cli import (
    data,
    explain,
    export,
    features,
    predict,
    prepare,
    push,
    results,
    training,
    weights,
)
from trn_jax.cli.arguments import Parser
from trn_jax.errors import UserError
from trn_jax.signals import interrupted_status

_DESCRIPTION = (
    "Prepare data, train, evaluate, predict, report and convert models of actions in videos."
)
COMMANDS = (
    training.add_train,
    training.add_eval,
    training.add_calibrate,
    training.add_probe,
    predict.add_predict,
    explain.add_explain,
    features.add_features,
    prepare.add_prepare,
    prepare.add_extract,
    data.add_check,
    data.add_show,
    data.add_records,
    training.add_recipes,
    weights.add_models,
    weights.add_convert,
    weights.add_reparameterize,
    export.add_export,
    push.add_push,
    results.add_report,
    results.add_ensemble,
    training.add_plan,
)


def main(arguments=None):
    """Entry point; returns the exit status."""
    parser = Parser(prog="trn-jax", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    chosen, others = parser.parse_known_args(arguments)
    if others and not getattr(chosen, "takes_settings", False):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    chosen.settings = others
    return exit_status(lambda: chosen.run(chosen), getattr(chosen, "stopped", "stopped"))


def exit_status(command, stopped="stopped"):
    """Run a command, and print errors as one line.

    Args:
        command: gives its exit status, or `None` for 0.
        stopped: the message after Ctrl-C.

    Returns:
        Its exit status, 2 after a user's or a disk's error, or that of an interruption.
    """
    try:
        status = command() or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        # The reader of the output has closed it, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {error}; fix that and run the same command again", file=sys.stderr)
    except KeyboardInterrupt as error:
        print(stopped, file=sys.stderr)
        return interrupted_status(error)
    return 2
