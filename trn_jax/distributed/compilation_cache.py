"""Programs that were compiled once are kept on disk, so that the next start takes them from there.

JAX does that with `JAX_COMPILATION_CACHE_DIR`; here it has a place without being told. Its own
settings go first: another folder, or `JAX_ENABLE_COMPILATION_CACHE=false` for none. What compiles
in less than a second is not kept (`JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS`).

Several hosts may share the folder: the first one writes, the others read, and what cannot be read,
such as a file that is being written, is compiled. The names of the files hold the program, the
versions of JAX and of the compiler, and the kind and number of the devices.
"""

import os
import sys

import jax

FOLDER = ".compilation_cache"


def keep_programs(workdir):
    """Keep compiled programs in `<parent of workdir>/.compilation_cache`.

    Not those for CPUs. Such a program fails on a machine with another processor, where the folder
    may be next, JAX on macOS crashes with large ones, and processors with a preference against
    gathers reject every one of them with a line of complaint (github.com/jax-ml/jax/issues/38445).

    Has to be called after the hosts came together and before anything is compiled. A folder that is
    of no use is told of, and nothing else.
    """
    settings = jax.config.values
    chosen = settings["jax_compilation_cache_dir"] is not None
    if chosen or not settings["jax_enable_compilation_cache"] or jax.default_backend() == "cpu":
        return
    folder = os.path.join(os.path.dirname(os.path.abspath(workdir)), FOLDER)
    problem = _problem(folder)
    if not problem:
        jax.config.update("jax_compilation_cache_dir", folder)
    elif jax.process_index() == 0:
        print(
            f"compiled programs are not kept in {folder}: {problem}; JAX_COMPILATION_CACHE_DIR "
            "names another folder",
            file=sys.stderr,
            flush=True,
        )


def _problem(folder):
    """What speaks against `folder`, which is created; or ""."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # Whoever writes there decides what runs here.
        if os.stat(folder).st_uid != os.getuid():
            return "it belongs to another user"
        writable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError as error:
        return error.strerror
    return "" if writable else "it cannot be written to"
