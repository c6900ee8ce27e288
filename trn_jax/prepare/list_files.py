"""File names of the lists of a data set."""

import dataclasses

from trn_jax.data.datasets import DATASETS


@dataclasses.dataclass(frozen=True)
class ListFiles:
    """Names of the lists of one label order.

    Attributes:
        train: list of the training videos.
        val: list of the validation videos.
        classes: class names in label order.
        final_newline: whether files end with a newline; those of TRN do not.
    """

    train: str
    val: str
    classes: str
    final_newline: bool = True

    def write(self, writer, class_names, train, val):
        """Write the lines of the three files with a `DatasetWriter`."""
        for name, lines in ((self.classes, class_names), (self.train, train), (self.val, val)):
            end = "\n" if lines and self.final_newline else ""
            writer.write(name, "\n".join(lines) + end)


def default_files(dataset, source="frames"):
    """The `ListFiles` that training reads by default, of "frames" or "videos"."""
    defaults = DATASETS[dataset]
    train, val = defaults.train_list, defaults.val_list
    if source == "videos":
        train, val = (name.replace("rawframes", "videos") for name in (train, val))
    return ListFiles(train, val, defaults.class_names)


# The lists of TRN-pytorch, in alphabetical order.
TRN_LISTS = ListFiles(
    "train_videofolder.txt", "val_videofolder.txt", "category.txt", final_newline=False
)
