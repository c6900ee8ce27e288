"""A message that is printed if this process is killed: SIGKILL, out of memory, a crash in C++.

JAX's runtime aborts a process that loses process 0, before Python can print why. A small child
process therefore holds the message, and prints it when its pipe breaks.
"""

import contextlib
import os
import subprocess
import sys

from trn_jax.signals import STOP_SIGNALS

# Reads messages, one per line, and prints the last one: its first part, or the one after a tab if
# the coordinator doesn't answer.
_CHILD = f"""
import signal, socket, sys
for number in {[int(number) for number in STOP_SIGNALS]}:
    signal.signal(number, signal.SIG_IGN)  # it ends with the other process
message = ""
for message in sys.stdin:
    pass
killed, _, deserted = message.strip().partition("\\t")
host, _, port = sys.argv[1].rpartition(":")
if deserted and port:
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        killed = deserted
if killed:
    sys.stderr.write(killed + "\\n")
"""


class KillMessage:
    """A child process that prints a message if this process is killed.

    Args:
        coordinator: address of JAX's coordinator, `"<host>:<port>"`; "" with one process.

    Attributes:
        message: the message, one line.
    """

    def __init__(self, coordinator):
        self.message = ""
        reader, writer = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD, coordinator],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # signals to the group of this process don't concern it
        )
        os.close(reader)
        self._pipe = os.fdopen(writer, "w")

    def change(self, message):
        """Replace the message, one line."""
        if message != self.message:
            self.message = message
            # The child may have been killed, or the pipe closed.
            with contextlib.suppress(OSError, ValueError):
                self._pipe.write(f"{message}\n")
                self._pipe.flush()

    def close(self):
        """Discard the message and end the child process."""
        self.change("")
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.wait()
