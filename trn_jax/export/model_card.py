"""The model card of a hub folder: `README.md` with the metadata that the Hugging Face hub reads."""

import json
import re

from trn_jax.errors import escaped
from trn_jax.evaluation.tables import percent, title_of

_MOST_CLASSES = 400  # that are listed
_TASK = "video-classification"
# Those that the hub knows, in its spelling; others are "other", with a name.
_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail"),
)
_METRICS = {"top1": "accuracy", "top5": "accuracy", "map": "mean_average_precision"}


def text(content, address):
    """The model card.

    Args:
        content: of `config.json`, see `hub.description`.
        address: `hf:<user>/<name>`, for the commands in it.
    """
    name = address.rpartition("/")[2]
    parts = [
        _front_matter(content, name),
        f"# {name}",
        _summary(content),
        _use(content, address),
        _results(content),
        _input(content),
        _training(content),
        _classes(content),
        _license(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(content, name):
    """YAML between lines of dashes; every value is written as JSON, which YAML includes."""
    model = content["architecture"]
    tags = [_TASK, "action-recognition", "jax", "flax", model.partition("_")[0], model]
    values = {
        "library_name": "trn_jax",
        "pipeline_tag": _TASK,
        "tags": list(dict.fromkeys(tags)),
        **_license_values(content["license"]),
    }
    results = _model_index(content)
    if results:
        values["metrics"] = sorted({each["type"] for r in results for each in r["metrics"]})
        values["model-index"] = [{"name": name, "results": results}]
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _license_values(license):
    if not license:
        return {}
    if license.lower() in _LICENSES:
        return {"license": license.lower()}
    name = re.sub(r"[^a-z0-9.-]+", "-", license.lower()).strip("-.")[:50]
    return {"license": "other", "license_name": name or "other"}


def _model_index(content):
    """Results in the form of the hub; only metrics that it has a name for."""
    return [
        {
            "task": {"type": _TASK},
            "dataset": {
                "name": _data_name(content),
                "type": content["config"]["data"]["dataset"],
                "split": each["split"],
            },
            "metrics": [
                {
                    "type": _METRICS[key],
                    "name": f"{title_of(key)} ({each['protocol']})",
                    "value": value,
                }
                for key, value in each["metrics"].items()
                if key in _METRICS and value is not None
            ],
        }
        for each in content["results"]
        if any(key in _METRICS and value is not None for key, value in each["metrics"].items())
    ]


def _data_name(content):
    name = content["config"]["data"]["dataset"]
    return "own data" if name == "frames" else name


def _summary(content):
    count, kind = content["num_classes"], "labels" if content["multi_label"] else "classes"
    head = f"recognises {count:,} {kind}" if count else "gives features"
    return (
        f"`{content['architecture']}` of trn_jax, which {head} of actions in videos from a few "
        "frames. `model.safetensors` has parameters and statistics, `config.json` everything that "
        "is needed to use them: class names, sampling, preprocessing and calibration."
    )


def _use(content, address):
    """Commands and a program, which need a head for more than features."""
    commands = [
        f"trn-jax predict video.mp4 --checkpoint={address}",
        f"trn-jax eval {address} --config.data_dir=<folder of the data set>",
    ]
    call, shown = 'trn_jax.predict("video.mp4", model)', "each.label, each.top(5)"
    if not content["num_classes"]:
        commands = [f"trn-jax features video.mp4 --checkpoint={address} --to=features.npz"]
        call, shown = 'trn_jax.extract_features("video.mp4", model)', "each.times, each.vectors"
    commands.append(f"trn-jax probe <own data> --checkpoint={address}")
    lines = "\n".join(commands)
    return f"""## Use

```
{lines}
```

```python
import trn_jax

model = trn_jax.load_model("{address}")
for each in {call}:
    print(each.video, {shown})
```

trn_jax needs its extras `hub` and `video`."""


def _results(content):
    rows = content["results"]
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    if not rows:
        names = list(content["metrics"])
        if not names:
            return "## Results\n\nThis checkpoint has not been evaluated."
        rows = [{"protocol": "validation", "split": "val", "metrics": content["metrics"]}]
    lines = [["protocol", "split", "videos", "views", *map(title_of, names)]]
    for row in rows:
        known = [row["protocol"], row["split"], row.get("num_videos"), row.get("num_views")]
        cells = ["" if value is None else str(value) for value in known]
        lines.append(cells + [percent(row["metrics"].get(name)) for name in names])
    return f"## Results\n\nMeasured with trn_jax, in per cent, on {_data_name(content)}:\n\n" + (
        _table(lines)
    )


def _table(rows):
    """A table of Markdown, the first row above the line."""
    rows = [[_plain(cell) for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]])


def _plain(value):
    """Foreign text that is neither Markdown nor HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", escaped(value))


def _input(content):
    contract, pixels = content["contract"], content["preprocessing"]
    lines = [
        "RGB frames, 0 to 255, channels last; the model normalises them itself (mean "
        f"{_numbers(pixels['mean'])}, standard deviation {_numbers(pixels['std'])})."
    ]
    if view := contract["view"]:
        lines.append(
            f"Protocol {_plain(contract['protocol'])}: clips of {view['num_segments']} frames "
            f"(`sampling={view['sampling']}`), the short side resized to {view['short_side']} "
            f"pixels, {view['crop']} crop of {view['crop_size']} pixels."
        )
    if contract["seconds"]:
        lines.append(f"Training examples typically last {contract['seconds']:.3g} s.")
    if calibration := content["calibration"]:
        lines.append(
            f"Scores are calibrated (temperature {calibration['temperature']:.3g}, a threshold per "
            f"class), from {calibration['num_videos']:,} videos of {_plain(calibration['split'])}."
        )
    return "## Input\n\n" + "\n".join(lines)


def _numbers(values):
    return ", ".join(f"{value:g}" for value in values)


def _training(content):
    source, config, lists = content["source"], content["config"], content["lists"]
    lines = []
    if file := source.get("file"):
        lines.append(f"Converted from {_plain(file)} (SHA-256 `{_plain(source.get('sha256'))}`).")
    if origin := source.get("hub"):
        lines.append(f"Downloaded from {_plain(origin)}.")
    if not source:
        train, optim = config["train"], config["optim"]
        start = config.get("init_from")
        lines += [
            f"{content['checkpoint']['step']:,} steps of {train['batch']} clips on "
            f"{_data_name(content)}, learning rate {optim['lr']:g} ({optim['schedule']}), weight "
            f"decay {optim['weight_decay']:g}, from "
            f"{'the weights of ' + _plain(start) if start else 'random weights'}.",
        ]
    for split, each in lists.items():
        digest = _plain(each.get("sha256"))
        lines.append(f"The {_plain(split)} list has {each['videos']:,} videos (SHA-256 {digest}).")
    versions = ", ".join(f"{name} {value}" for name, value in content["versions"].items())
    lines.append(f"The whole configuration is in `config.json`. Written with {versions}.")
    return "## Training\n\n" + "\n".join(lines)


def _classes(content):
    names = content["class_names"]
    if not names:
        return ""
    shown = [f"{number}. {_plain(name)}" for number, name in enumerate(names[:_MOST_CLASSES])]
    if len(names) > _MOST_CLASSES:
        shown.append(f"\nand {len(names) - _MOST_CLASSES:,} more, see `config.json`.")
    return "## Classes\n\n" + "\n".join(shown)


def _license(content):
    if content["license"]:
        return f"## Licence\n\n{_plain(content['license'])}"
    return "## Licence\n\nNo licence is stated. Ask the owner before you use this model."
