"""The command that trains a recipe on a prepared data set."""

import dataclasses

from trn_jax.prepare.list_files import default_files


@dataclasses.dataclass(frozen=True)
class Training:
    """A recipe and the lists of a prepared data set to train it on.

    Attributes:
        recipe: name of a file in `configs/`.
        dataset: name in `datasets.DATASETS`.
        num_classes: number of classes found.
        multi_label: whether videos have several labels.
        source: "frames" or "videos", what the lists name.
        lists: fields of `datasets.Dataset` that differ from the defaults of this data set.
        flags: further flags of the command.
    """

    recipe: str
    dataset: str
    num_classes: int
    multi_label: bool
    source: str
    lists: dict[str, str | int]
    flags: tuple[str, ...]

    def command(self, data_dir, *flags):
        """The command line for the data in a folder, as words."""
        places = [f"--config.data_dir={data_dir}", f"--workdir=runs/{self.recipe}"]
        return ["trn-jax", "train", self.recipe, *places, *flags, *self.flags]


def plan_training(
    recipe,
    dataset,
    written,
    *,
    num_classes,
    recipe_classes,
    name_dataset=False,
    multi_label=False,
    source="frames",
    naming=None,
):
    """Choose the lists and flags that a recipe needs for a prepared data set.

    Args:
        recipe: name of a file in `configs/`.
        dataset: name in `datasets.DATASETS`, whose default lists are chosen if they were written.
        written: the `ListFiles` that were written.
        num_classes: number of classes found.
        recipe_classes: number of classes in the recipe; `None` for that of the label map.
        name_dataset: whether the recipe is for another data set, so that a flag names this one.
        multi_label: whether videos have several labels.
        source: "frames" or "videos", what the lists name.
        naming: `frame_pattern` and `first_frame` where they differ from the data set's defaults.

    Returns:
        A `Training`.
    """
    usual = default_files(dataset, source)
    files = next((files for files in written if files.train == usual.train), written[0])
    lists = {
        "train_list": (files.train, usual.train),
        "val_list": (files.val, usual.val),
        "class_names": (files.classes, usual.classes),
    }
    changed = {key: name for key, (name, default) in lists.items() if name != default}
    changed |= (naming or {}) if source == "frames" else {}
    flags = [f"--config.data.dataset={dataset}"] if name_dataset else []
    flags += ["--config.data.multi_label=True"] if multi_label else []
    if recipe_classes not in (None, num_classes):
        flags.append(f"--config.model.num_classes={num_classes}")
    return Training(recipe, dataset, num_classes, multi_label, source, changed, tuple(flags))
