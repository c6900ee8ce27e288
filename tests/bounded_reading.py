"""Readers of foreign files in a process of its own, of which the memory and the time are bounded.

What goes wrong there is a `MemoryError` or a dead process, and not a machine without memory.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import traceback

TESTS = pathlib.Path(__file__).parent


def run(script, *arguments, seconds=500):
    """The lines of JSON that a script of this folder prints, `[{...}, ...]`."""
    command = [sys.executable, str(TESTS / script), *map(str, arguments)]
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,  # against a hang, far above what it takes
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr[-3000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def bound_memory(megabytes):
    """Let this process take so much more than it has now, where the system knows how much that is.

    Returns:
        Whether it does.
    """
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return False
    limit = pages * resource.getpagesize() + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return True


def outcome(read, path):
    """What became of reading a file: `{"kind": "read", "refused" or "fault", "text": ...}`."""
    from trn_jax.errors import UserError

    try:
        read(path)
    except UserError as error:
        cause = error.__cause__ or error.__context__
        # FFmpeg has limits of its own, and says the same where a file goes beyond them.
        if isinstance(cause, MemoryError) and not type(cause).__module__.startswith("av."):
            return {"kind": "fault", "text": f"it took the memory: {error}"}
        return {"kind": "refused", "text": str(error)}
    except Exception:
        return {"kind": "fault", "text": traceback.format_exc()}
    return {"kind": "read", "text": ""}
