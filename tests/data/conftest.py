"""The grey videos of `grey_videos`, readable and corrupt."""

import grey_videos
import pytest


@pytest.fixture(scope="session")
def grey(tmp_path_factory):
    """The folder of the grey videos and their list."""
    return grey_videos.write_videos(tmp_path_factory.mktemp("grey"))


@pytest.fixture
def corrupt(grey, tmp_path):
    """The same videos, of which number 10 is missing and 4 has broken frames."""
    for line in (grey / "list.txt").read_text().splitlines():
        name = line.split()[0]
        if name == "v4":
            (tmp_path / name).mkdir()
            for frame in (grey / name).iterdir():
                (tmp_path / name / frame.name).write_bytes(frame.read_bytes()[:200])
        elif name != "v10":
            (tmp_path / name).symlink_to(grey / name)
    (tmp_path / "list.txt").write_text((grey / "list.txt").read_text())
    return tmp_path


@pytest.fixture(scope="session")
def reference(grey):
    """The first ten training batches, read by one thread: more than three epochs."""
    return grey_videos.train(grey_videos.batch_reader(grey, num_threads=1), 10)
