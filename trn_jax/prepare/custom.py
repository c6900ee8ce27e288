"""Custom data sets: from folders, tables, lists or annotations to the lists of a recipe.

The source is one of

    <folder>/<class>/.../<video>.mp4          video files or folders of frames, at any depth
    <folder>/train/<class>/..., .../val/..., .../test/...
    <folder>/<video>.mp4                      with a table in the folder or beside it
    <table>.csv .tsv .txt .json .jsonl        see `tables`
    <annotations>.json .eaf .xml .csv .tsv    see `annotation_tools`; or a folder of them

The videos stay where they are. Beside a link to them, the data set has `train_list.txt`,
`val_list.txt`, perhaps `test_list.txt`, and `label_map.txt`; and, if videos are unreadable,
`unreadable.txt`, with lines `<video><tab><reason>`. `splits` has the rule for the splits.
"""

import collections
import dataclasses
import os
import statistics

from trn_jax.errors import UserError, listed
from trn_jax.prepare import class_names, splits
from trn_jax.prepare.background import add_background
from trn_jax.prepare.custom_sources import SourceOptions, find_examples
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import SPLIT_NAMES
from trn_jax.prepare.left_out import is_line
from trn_jax.prepare.list_files import default_files
from trn_jax.prepare.opened_videos import naming_of, only_kind, open_all
from trn_jax.prepare.training_command import own_recipe, weights_note


def prepare_custom(
    source,
    to,
    *,
    val_share=0.2,
    seed=0,
    workers=1,
    merge_classes=False,
    background=0.0,
    frame_rate=None,
    init_from="",
    **options,
):
    """Write the lists of a custom data set.

    Args:
        source: folder, table or list, see above.
        to: folder of the data set.
        val_share: share of the training videos for validation, if the source has none for that.
        seed: of the choice of these.
        workers: processes that open videos.
        merge_classes: merge classes whose names differ only in case, spaces or Unicode normal form.
        background: parts without a label to add as a class, as a share of the labelled parts.
        frame_rate: see `opened_videos.open_all`.
        init_from: weights that the printed command starts from, as `config.init_from`; "" for none.
        **options: fields of `SourceOptions`.

    Returns:
        A `DatasetWriter`.

    Raises:
        UserError: no video is usable, or the source or `init_from` are not as expected.
    """
    _check_options(val_share, frame_rate, init_from)
    writer = DatasetWriter(to)
    chosen = SourceOptions(**options)
    root, examples, broken, order = find_examples(writer, source, to, chosen)
    examples, order = class_names.unify(writer, examples, order, merge=merge_classes)
    examples = _merge_rows(source, examples, chosen.multi_label)
    found = open_all(writer, root, examples, broken, workers=workers, frame_rate=frame_rate)
    kind = only_kind(source, found)
    writer.naming = naming_of(found)
    if background:
        found, order = add_background(writer, found, order, share=background, seed=seed)
    labels = _number_classes(writer, source, examples, found, order)
    division = _divide(writer, list(found), val_share=val_share, seed=seed)
    _check_spaces(found, chosen.multi_label)
    writer.link(root, "videos" if kind == "video" else "rawframes")
    _write_lists(writer, division, found, labels)
    lengths = [found[example].seconds for example in division.examples["train"]]
    _name_command(writer, kind, lengths, len(labels), init_from, chosen.multi_label)
    return writer


def _check_options(val_share, frame_rate, init_from):
    """Check the shares and rates, and that there are weights, if some are named."""
    places = init_from, init_from.rpartition("@")[0]
    if init_from and not (init_from.startswith("hf:") or any(map(os.path.exists, places))):
        raise UserError(
            f"--init-from={init_from}: there is no such file of weights, folder, run or checkpoint"
        )
    if not 0 < val_share < 1:
        raise UserError(f"--val-share={val_share} must be a share between 0 and 1, such as 0.2")
    if frame_rate is not None and not 0 < frame_rate <= 100_000:
        raise UserError(f"--frame-rate={frame_rate:g} must be frames per second, such as 25")


def _merge_rows(source, examples, multi_label):
    """One example per video or part; contradictions and names of several lines are an error."""
    problems = []
    same = collections.defaultdict(list)
    of_video = collections.defaultdict(list)
    for example in examples:
        problems += [
            f"the class {label!r} is not a single line of text"
            for label in example.labels
            if not label or not is_line(label)
        ]
        same[example.name].append(example)
        of_video[example.path].append(example)
    merged = []
    for name, rows in same.items():
        labels = tuple(dict.fromkeys(label for row in rows for label in row.labels))
        if len(labels) > 1 and not multi_label:
            problems.append(f"{name} is of two classes, {labels[0]!r} and {labels[1]!r}")
        merged.append(dataclasses.replace(rows[0], labels=labels))
    for path, rows in of_video.items():
        for what in ("split", "group"):
            values = sorted({getattr(row, what) for row in rows})
            if len(values) > 1:
                problems.append(f"{path} is in two {what}s, {values[0]!r} and {values[1]!r}")
    if problems:
        raise UserError(f"{source} needs corrections:{listed(list(dict.fromkeys(problems)))}")
    if multi_label and all(len(example.labels) == 1 for example in merged):
        raise UserError(
            f"{source} has one label per video, but --multi-label expects several in some cells, "
            "such as 'run;jump'; leave it out"
        )
    return merged


# Classes and lists


def _divide(writer, examples, **options):
    """The `Division` of readable examples; an error also has what was left out before."""
    earlier = splits.read_earlier(writer.to, (example.key for example in examples))
    try:
        return splits.divide(examples, earlier=earlier, **options)
    except UserError as error:
        raise UserError("; ".join([str(error), *writer.left_out])) from None


def _number_classes(writer, source, examples, found, order):
    """`{class name: label}` of the classes that have videos."""
    names = {label for example in found for label in example.labels}
    lost = sorted({label for example in examples for label in example.labels} - names)
    writer.lose("classes without a readable video, which are dropped", lost)
    if len(names) < 2:
        none_of = f"; none of the videos of {', '.join(lost)} can be read" if lost else ""
        raise UserError(
            f"{source} has videos of one class only, {next(iter(names))!r}{none_of}; expected a "
            "folder for each of several classes"
        )
    return {name: label for label, name in enumerate(class_names.ordered(names, order))}


def _check_spaces(found, multi_label):
    """Check that lines with several labels have no folders with spaces."""
    paths = {e.path: None for e, each in found.items() if each.video.kind == "frames"}
    spaced = [path for path in paths if len(path.split()) > 1]
    if multi_label and spaced:
        raise UserError(
            f"{len(spaced)} folders of frames have spaces in their names, which lists with several "
            f"labels can't have: {spaced[0]!r}; rename them"
        )


def _write_lists(writer, division, found, labels):
    if division.validation_from_train:
        writer.note("the source has no validation videos: a share of the training videos is used")
    if division.film:
        _note_film(writer, division.film)
    if division.kept:
        writer.note(
            f"{division.kept:,} videos stay in the split that the lists in {writer.to} had them "
            "in (remove these lists to divide all videos anew)"
        )
    writer.note_all("groups that the source has in several splits", division.torn)
    writer.note_all(
        "videos whose split in the source differs from the earlier lists", division.moved
    )
    for split in SPLIT_NAMES:
        chosen, name = division.examples[split], splits.LIST_FILES[split]
        if split == "test" and not chosen:
            writer.remove(name)
            continue
        lines = [
            found[example].line(
                example.path,
                sorted(labels[label] for label in example.labels),
                with_offset=writer.naming.get("with_offset", False),
            )
            for example in chosen
        ]
        writer.write(name, "".join(f"{line}\n" for line in lines))
        hint = ", evaluated with --split=test" if split == "test" else ""
        writer.note(f"{split}: {_number_of(chosen)}{hint}")
    writer.write("label_map.txt", "".join(f"{name}\n" for name in labels))
    writer.note(f"{len(labels)} classes")
    of_class = {(label, example.key) for example in found for label in example.labels}
    count = collections.Counter(label for label, _ in of_class)
    without = division.without("val")
    alone = [label for label in without if count[label] == 1]
    writer.skip("classes whose only video is for training, in validation", alone)
    others = sorted(set(without) - set(alone))
    writer.skip("classes without a video for validation", others)
    writer.skip("classes without a video for training", division.without("train"))


def _note_film(writer, film):
    """Note how a single film was divided."""
    of = film.val[0]
    start = f"frame {film.start:.0f}" if of.part.in_frames else f"{film.start:.3f} s"
    writer.note(
        f"{of.path} is the only video: its parts from {start} on are for validation, which is "
        "easier than other films would be"
    )
    writer.skip(
        "parts between those for training and for validation", [e.name for e in film.between]
    )


def _name_command(writer, kind, lengths, num_classes, init_from, multi_label):
    """Note the command that trains on the data set, whose training videos last `lengths`."""
    recipe, flags = own_recipe(
        len(lengths),
        init_from=init_from,
        seconds=statistics.median(lengths),
        multi_label=multi_label,
    )
    writer.then_train(
        recipe,
        "frames",
        [default_files("frames")],
        num_classes=num_classes,
        recipe_classes=None,
        multi_label=multi_label,
        source="videos" if kind == "video" else "frames",
        flags=flags,
        run=os.path.basename(os.path.abspath(writer.to)),
    )
    writer.note(weights_note(writer.to, init_from))


def _number_of(examples):
    """Such as "3 videos", or "12 parts of 3 videos"."""
    videos = len({example.key for example in examples})
    if not any(example.part for example in examples):
        return f"{len(examples):,} videos"
    return f"{len(examples):,} parts of {videos:,} videos"
