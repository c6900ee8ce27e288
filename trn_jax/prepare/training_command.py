"""The command that trains a recipe on a prepared data set."""

import dataclasses
import math
import os
import shlex

from trn_jax.prepare.list_files import default_files

# Of the recipe `small`, which a test compares.
SMALL_BATCH, SMALL_EPOCHS, SMALL_SEGMENTS = 16, 20, 8
_MIN_STEPS = 300  # the fewest to train a network from scratch
_MAX_GAP = 1.0  # seconds between the frames of a clip: an action of two seconds is in two
_BACKBONE = ["--model=tsn_resnet50", "--backbone-only"]
WEIGHTS_NOTE = (
    "small trains from scratch; with weights of a ResNet-50, train finetune instead and add "
    "--config.init_from=<weights>"
)


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
        run: name of the folder of the run; by default that of the recipe.
    """

    recipe: str
    dataset: str
    num_classes: int
    multi_label: bool
    source: str
    lists: dict[str, str | int]
    flags: tuple[str, ...]
    run: str = ""

    def command(self, data_dir, *flags):
        """The command line for the data in a folder, as words."""
        run = self.run or self.recipe
        places = [f"--config.data_dir={data_dir}", f"--workdir=runs/{run}"]
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
    flags=(),
    run="",
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
        flags: further flags of the command.
        run: name of the folder of the run; by default that of the recipe.

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
    chosen = [f"--config.data.dataset={dataset}"] if name_dataset else []
    chosen += ["--config.data.multi_label=True"] if multi_label else []
    if recipe_classes not in (None, num_classes):
        chosen.append(f"--config.model.num_classes={num_classes}")
    chosen += flags
    return Training(recipe, dataset, num_classes, multi_label, source, changed, tuple(chosen), run)


def own_recipe(num_train, *, init_from="", seconds=0.0, multi_label=False):
    """The recipe for videos that no published recipe is for, and its flags.

    `finetune` starts from weights; `small` trains from scratch.

    Args:
        num_train: number of training videos.
        init_from: weights to start from; "" for none.
        seconds: how long the median video lasts; 0 if unknown.
        multi_label: whether videos have several labels.

    Returns:
        `(recipe, flags)`.
    """
    if init_from:
        smoothed = ["--config.train.label_smoothing=0.0"] if multi_label else []
        return "finetune", [f"--config.init_from={init_from}", *smoothed]
    flags = []
    epochs = math.ceil(_MIN_STEPS * SMALL_BATCH / max(num_train, 1))
    if epochs > SMALL_EPOCHS:
        flags.append(f"--config.train.epochs={epochs}")
        # As many evaluations as usual: each writes a checkpoint.
        flags.append(f"--config.train.eval_every={math.ceil(epochs / SMALL_EPOCHS)}")
    if seconds / SMALL_SEGMENTS > _MAX_GAP:
        flags.append(f"--config.model.num_segments={2 * SMALL_SEGMENTS}")
    return "small", flags


def weights_note(to, init_from):
    """What else may be trained: `finetune` where no weights are named, or a head alone.

    Args:
        to: folder of the prepared data set.
        init_from: weights to start from; "" for none.
    """
    if not init_from:
        return WEIGHTS_NOTE
    run = os.path.basename(os.path.abspath(to))
    checkpoint, commands = init_from, []
    if os.path.isfile(init_from):
        checkpoint = f"runs/{run}_weights"
        commands = [["convert", f"--from={init_from}", *_BACKBONE, f"--to={checkpoint}"]]
    commands.append(["probe", to, f"--checkpoint={checkpoint}", f"--workdir=runs/{run}_probe"])
    lines = " && ".join(shlex.join(["trn-jax", *words]) for words in commands)
    return f"much faster on a CPU, a new head on frozen features: {lines}"
