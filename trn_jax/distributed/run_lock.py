"""A lock on a folder: one run at a time writes to it, whatever machine the run is on."""

import contextlib
import json
import os
import platform
import sys
import tempfile
import threading
import time
import uuid

import jax

from trn_jax.distributed import processes
from trn_jax.errors import STUCK, PassingError, UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; there, signs of life alone decide
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
PULSE = 5.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which an owner on another machine is dead
_LONGEST = 4096  # bytes of the file that are read


class RunLock:
    """Lock of a working directory, held in a `with`.

    The system releases a lock (flock) when its owner ends, however that happens. Network disks may
    keep such locks on one machine only, or have none. So the owner also writes who it is into the
    file, and again every few seconds: an owner on another machine counts as dead when the file has
    not changed for a minute.

    Args:
        folder: the working directory; must exist.

    Raises:
        PassingError: another run holds the lock; the message names it.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder):
        self._folder = folder
        self._path = os.path.join(folder, NAME)
        self._released = threading.Event()
        self._owner = {
            "host": platform.node(),
            "machine": machine_name(),
            "pid": os.getpid(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "token": uuid.uuid4().hex,
        }

    def __enter__(self):
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            exclusive = self._flock()
            owner = self.read_owner()
            # On one machine, flock alone decides: the owner is gone.
            if owner and not (exclusive and owner.get("machine") == self._owner["machine"]):
                self._wait_for_silence(owner)
            self._write(0)
        except BaseException:
            os.close(self._file)
            raise
        self._pulse = threading.Thread(target=self._keep_alive, name="run-lock", daemon=True)
        self._pulse.start()
        return self

    def __exit__(self, *_):
        self._released.set()
        self._pulse.join()
        with contextlib.suppress(OSError):
            if self.read_owner().get("token") == self._owner["token"]:
                os.ftruncate(self._file, 0)
        os.close(self._file)

    def _flock(self):
        """Take the lock of the system; returns whether there is one."""
        if fcntl is None:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken(self.read_owner()) from None
        except OSError:
            return False  # a file system without locks
        return True

    def _wait_for_silence(self, owner):
        """Wait until an owner on another machine has been silent for long enough."""
        silent = self._age()
        if silent < SILENCE:
            print(
                f"{self._path} names a run on {owner.get('host')!r}; waiting up to "
                f"{SILENCE - silent:.0f} s for a sign of life",
                file=sys.stderr,
                flush=True,
            )
        end = time.monotonic() + SILENCE - silent
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, PULSE / 5))
            now = self.read_owner()
            if not now:
                return  # it has ended
            if now != owner:
                raise self._taken(now)

    def _age(self):
        """Seconds since the file was written, by the clock of its disk."""
        with tempfile.TemporaryFile(dir=self._folder) as probe:
            os.write(probe.fileno(), b".")
            now = os.fstat(probe.fileno()).st_mtime
        return max(now - os.stat(self._path).st_mtime, 0.0)

    def _taken(self, owner):
        who = "another run"
        if owner:
            who = (
                f"another run (process {owner.get('pid')!r} on {owner.get('host')!r}, since "
                f"{owner.get('started')!r})"
            )
        return PassingError(
            f"{self._folder} is in use by {who}; wait until it ends, or choose another --workdir"
        )

    def read_owner(self):
        """The owner that the file names: a dict, empty if none."""
        # Opened anew, or a network disk would show what it has in its cache.
        with open(self._path, "rb") as file:
            content = file.read(_LONGEST)
        try:
            owner = json.loads(content) if content else {}
        except ValueError:
            owner = None  # it is just being written
        return owner if isinstance(owner, dict) else {"content": content.hex()}

    def _write(self, pulse):
        content = json.dumps(self._owner | {"pulse": pulse}).encode() + b"\n"
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, content)
        os.ftruncate(self._file, len(content))

    def _keep_alive(self):
        pulse = 0
        # First after a moment: if two runs on two machines started at once, the file names one.
        while not self._released.wait(PULSE if pulse else 1.0):
            pulse += 1
            with contextlib.suppress(OSError):  # the disk may come back
                owner = self.read_owner()
                if owner.get("token", self._owner["token"]) != self._owner["token"]:
                    print(f"error: {self._taken(owner)}", file=sys.stderr, flush=True)
                    os._exit(STUCK)
                self._write(pulse)


@contextlib.contextmanager
def hold(workdir):
    """Create a working directory and lock it against other runs, in a `with` on all processes.

    Raises:
        PassingError: another run has it.
        UserError: it cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(workdir, exist_ok=True)
            if jax.process_index() == 0:
                stack.enter_context(RunLock(workdir))
            processes.barrier()  # nothing may be written before
            with tempfile.TemporaryFile(dir=workdir):
                pass
        except OSError as error:
            raise UserError(
                f"cannot write to the working directory {workdir}: {error.strerror or error}; "
                "choose another --workdir"
            ) from None
        yield


def machine_name():
    """A name of this machine that no other one has while it runs."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return f"{platform.node()}-{uuid.getnode():x}"
