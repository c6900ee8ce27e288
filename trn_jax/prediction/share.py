"""What one of several processes predicts, and what is done already."""

import itertools

from trn_jax.data.streams import masked
from trn_jax.prediction.saved import with_calibration


class Share:
    """The videos and streams of one process, and what a folder has of all of them.

    A stream begins anew with every command, so every time it has a name of its own in the folder:
    `rtsp://camera/1`, then `rtsp://camera/1 (2)`.

    Args:
        predictor: the `Predictor`.
        folder: the `PredictionFolder`, or `None`.
        inputs: a list of `Input`, of all processes.
        streams: texts that name streams, of all processes.
        process: number of this process.
        num_processes: number of processes.

    Attributes:
        inputs: those of this process.
        streams: `{name: text}` of this process; passwords are masked in names.
        done: `{name: answers}` of the inputs of this process that are done.
        earlier: pairs of the answers and the path, "", of these streams in earlier commands.

    Raises:
        UserError: the folder has scores of another model, of other settings or of other files.
    """

    def __init__(self, predictor, folder, inputs, streams, process, num_processes):
        self._folder = folder
        self._calibration = predictor.calibration
        self.inputs = inputs[process::num_processes]
        self._other_inputs = [each for n, each in enumerate(inputs) if n % num_processes != process]
        self._other_streams = [
            text for n, text in enumerate(streams) if n % num_processes != process
        ]
        self.done = dict(self._done((each.name, each.record.path) for each in self.inputs))
        self.streams: dict[str, str] = {}
        earlier = []
        for text in streams[process::num_processes]:
            there, name = self._sessions(text)
            earlier += there
            self.streams[name] = text
        self.earlier = [(found, "") for _, found in self._done((name, "") for name in earlier)]

    @property
    def paths(self):
        """`{name: its file or folder}` of this process; "" for streams."""
        paths = {each.name: each.record.path for each in self.inputs}
        return paths | dict.fromkeys(self.streams, "")

    def done_elsewhere(self, known):
        """What other processes have done so far, except the videos whose names are `known`.

        Returns:
            A list of pairs of the answers and the path of the video, "" for a stream.
        """
        paths = {each.name: each.record.path for each in self._other_inputs}
        for text in self._other_streams:
            paths |= dict.fromkeys(self._sessions(text)[0], "")
        left = ((name, path) for name, path in paths.items() if name not in known)
        return [(answers, paths[name]) for name, answers in self._done(left)]

    def _sessions(self, text):
        """Names of a stream that the folder has scores of, and the next one that is free."""
        there: list[str] = []
        plain = masked(text)
        names = (plain if n == 1 else f"{plain} ({n})" for n in itertools.count(1))
        for name in names:
            if name in self.streams:  # the same one with another password
                continue
            if not (self._folder and self._folder.has(name)):
                break
            there.append(name)
        return there, name

    def _done(self, paths):
        """Pairs of the name and the answers of those of `(name, path)` that the folder has."""
        for name, path in paths:
            answers = self._folder and self._folder.read(name, path)
            if answers:
                yield name, with_calibration(self._calibration, answers)
