"""`trn-jax push`: upload a checkpoint to the Hugging Face hub."""

import dataclasses
import json

from trn_jax.cli.arguments import CHECKPOINT, add_json, add_license
from trn_jax.errors import log
from trn_jax.signals import interrupting


def add_push(commands):
    """`trn-jax push CHECKPOINT hf:<user>/<name>`."""
    parser = commands.add_parser(
        "push",
        help="upload a checkpoint to the Hugging Face hub",
        description="Upload a checkpoint to the Hugging Face hub, as safetensors with a model "
        "card; hf:<user>/<name> is then a checkpoint for all commands. Log in first with `hf auth "
        "login`, or set HF_TOKEN. HF_ENDPOINT names another hub.",
    )
    add = parser.add_argument
    add("checkpoint", help=CHECKPOINT)
    add("to", metavar="hf:USER/NAME", help="repository; it is created if it doesn't exist")
    add("--private", action="store_true", help="create a repository that only its owner can read")
    add_license(parser)
    add("--message", help="message of the commit")
    add_json(parser)
    parser.set_defaults(run=_push)


def _push(arguments):
    from trn_jax.checkpoints import hub

    hub.check_target(arguments.to)  # before anything is read
    from trn_jax.checkpoints.checkpoint import open_checkpoint
    from trn_jax.export.hub import push

    opened = open_checkpoint(arguments.checkpoint)
    log(f"uploading {opened}")
    options = dict(license=arguments.license, message=arguments.message)
    with interrupting():  # or the folder that is uploaded would stay
        found = push(opened, arguments.to, private=arguments.private, **options)
    if not found.license:
        log("it has no license, so nobody may use it; --license=... states one")
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        print(f"{found.url}\n{found.address}")
