"""Persistent compilation cache: later runs reuse compiled programs.

JAX has such a cache if `JAX_COMPILATION_CACHE_DIR` is set; this module gives it a default folder.
JAX's own settings take precedence: another folder, or `JAX_ENABLE_COMPILATION_CACHE=false` to turn
it off. Programs that compile in under a second are not cached
(`JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS`).

Several processes may share the folder: process 0 writes, the others read. An entry that can't be
read, for example because it is still being written, is compiled again. Cache keys cover the
program, the versions of JAX and the compiler, and the kind and number of devices.
"""

import os
import sys

import jax

FOLDER = ".compilation_cache"


def keep_programs(workdir):
    """Cache compiled programs in `<parent of workdir>/.compilation_cache`.

    CPU programs are not cached: they fail on machines with another processor, which may read the
    same folder later; JAX on macOS crashes on large ones; and some processors reject each of them
    with a warning (github.com/jax-ml/jax/issues/38445).

    Call it after the processes are connected and before anything is compiled. An unusable folder
    is reported and otherwise ignored.
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
    """Why `folder`, which is created, can't hold the cache; "" if it can."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # Whoever writes there decides what runs here.
        if os.stat(folder).st_uid != os.getuid():
            return "it belongs to another user"
        writable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError as error:
        return error.strerror
    return "" if writable else "it cannot be written to"
