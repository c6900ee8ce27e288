"""Profiles of some training steps, for XProf."""

import jax


class Profile:
    """Records what devices and threads do in some steps of a training, for XProf.

    Args:
        steps: the first and the last one, or `None`.
        folder: where the recording goes.
    """

    def __init__(self, steps, folder):
        self._steps = steps
        self._folder = folder
        self._runs = False

    def before(self, step):
        """Begin to record, if this is the first of the steps."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._runs = True

    def after(self, step, results):
        """Wait for the results of a step, and end, if it is the last one.

        Returns:
            A message about where the recording is, or "".
        """
        if not self._runs or step != self._steps[1]:
            return ""
        jax.block_until_ready(results)
        self.close()
        first, last = self._steps
        return (
            f"recorded steps {first} to {last} in {self._folder}; to view them: pip install xprof, "
            f"then xprof --logdir={self._folder}"
        )

    def close(self):
        """End, also before the last of the steps."""
        if self._runs:
            self._runs = False
            jax.profiler.stop_trace()
