"""Generate the pages of docs/ that come from the code: keys, commands and recipes.

    python scripts/docs_pages.py docs/generated

`docs/conf.py` calls `write` in every build, so these pages are never stale.
"""

import argparse
import ast
import io
import json
import os
import pathlib
import re
import sys
import tokenize

ROOT = pathlib.Path(__file__).resolve().parent.parent
_KEYS = ROOT / "trn_jax" / "config.py"
_NOTEBOOK = ROOT / "docs" / "first_model.ipynb"
# Sections of the configuration: name in config.py -> prefix of the keys, title, introduction.
_SECTIONS = {
    "_CONFIG": ("", "General", ""),
    "_MODEL": ("model.", "Model", "Keyword arguments of `trn_jax.create_model`."),
    "_DATA": ("data.", "Data", ""),
    "ViewKeys": (
        "data.train.",
        "Views",
        "The same keys describe training (`data.train`), validation (`data.val`) and every "
        "protocol (`protocols.<name>`): `--config.protocols.accurate.crop=ten`.",
    ),
    "_TRAIN": ("train.", "Training", ""),
    "_OPTIM": ("optim.", "Optimizer", ""),
    "_EVAL": ("eval.", "Evaluation", ""),
}


def documented_keys(source=None):
    """The keys of `trn_jax/config.py` with the text of their comments.

    A comment behind a key describes it and may continue on the next lines. Comments on the lines
    above a key describe it, too; they end with a full stop.

    Args:
        source: the text of the module; by default that of the package.

    Returns:
        `{section: {key: text}}`, sections as in `_SECTIONS`; a key without comment has "".
    """
    source = _KEYS.read_text(encoding="utf-8") if source is None else source
    behind, alone = _comments(source)
    sections = {}
    for name, spans in _spans(source):
        texts: list[list[str]] = []
        is_behind = False  # whether the key before has a comment behind it
        for first, last in spans.values():
            block = _lines_before(first, alone)
            start = _start_of_sentences(block) if is_behind else 0
            if texts:
                texts[-1] += block[:start]
            own = [behind[line] for line in range(first, last + 1) if line in behind]
            texts.append([*block[start:], *own])
            is_behind = bool(own)
        while last + 1 in alone:
            last += 1
            texts[-1].append(alone[last])
        sections[name] = dict(zip(spans, map(" ".join, texts), strict=True))
    return sections


def _comments(source):
    """Comments behind code and those alone, `{line: text}` each."""
    behind: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            kind = alone if token.line.strip().startswith("#") else behind
            kind[token.start[0]] = token.string.lstrip("# ")
    return behind, alone


def _lines_before(line, alone):
    """The comments on the lines above a line."""
    first = line
    while first - 1 in alone:
        first -= 1
    return [alone[each] for each in range(first, line)]


def _spans(source):
    """Pairs of a section and `{key: (first line, last line)}`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name in _SECTIONS:
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            yield node.name, {ast.unparse(f.target): (f.lineno, f.end_lineno) for f in fields}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            name = ast.unparse(node.targets[0])
            if name in _SECTIONS:
                yield name, {k.arg: (k.lineno, k.end_lineno) for k in node.value.keywords}


def _start_of_sentences(block):
    """Where the lines between two keys stop to continue the comment behind the first one."""
    if not block or not block[-1].endswith("."):
        return len(block)
    starts = [i for i, line in enumerate(block) if line[0].isupper() or line[0] == '"']
    return starts[0] if starts else len(block)


def config_page():
    """Every key with default, allowed values and meaning."""
    from trn_jax import config

    allowed, in_views = config.allowed(), config.allowed_in_views()
    defaults = config.base(dataset="frames", model="trn_resnet50")
    sections = documented_keys()
    lines = []
    for name, (prefix, title, text) in _SECTIONS.items():
        lines += [f"## {title}", "", *([text, ""] if text else [])]
        is_view = name == "ViewKeys"
        section = config.view() if is_view else defaults
        for part in filter(None, [] if is_view else prefix.split(".")):
            section = section[part]
        for key, about in sections[name].items():
            values = in_views.get(key) if is_view else allowed.get(prefix + key)
            shown = key if is_view else prefix + key
            target = "view." + key if is_view else shown
            lines += [f"(key-{target.replace('.', '-')})="]
            lines += [f"`{shown}`", f": {_facts(name, key, section[key], values)}", ""]
            lines += [f"  {_prose(about)}", ""]
    return "\n".join(lines)


def _facts(section, key, default, allowed):
    """Default and allowed values of a key."""
    registries = _registries() if section == "_MODEL" else {}
    if section in ("_MODEL", "_DATA") and key in ("name", "dataset"):
        return "set by the recipe"
    facts = [f"default `{default!r}`"]
    if isinstance(default, bool):
        facts.append("`True` or `False`")
    elif key in registries:
        facts.append("one of " + ", ".join(f"`{name}`" for name in registries[key]))
    elif allowed is not None:
        facts.append(re.sub(r"'[^']*'", r"`\g<0>`", str(allowed)))
    return "; ".join(facts)


def _registries():
    from trn_jax import backbones, models

    return {
        "backbone": backbones.BACKBONES,
        "temporal_op": models.TEMPORAL_OPS,
        "neck": models.NECKS,
        "head": models.HEADS,
    }


# Parts of a comment or help text that are code: flags, keys, modules, places and quoted values.
_CODE = re.compile(
    r'"[^"]*<[^"]*"|"[^"\s]*"|(?<![\w-])--?[a-z][\w.]*(=[\w<>.@]*\w)?|'
    r"[\w./]*<[^<>]*>([\w./@<>:]*[\w>])?|"
    r"\b(data|model|models|train|optim|eval|trn_jax)\.[\w.]*\w(\(\))?|\bNone\b|\b[a-z]+_[a-z_]+\b"
)


def _prose(text):
    """A comment or help text as a sentence of Markdown."""
    text = text[:1].upper() + text[1:]
    parts = text.split("`")
    parts[::2] = [_CODE.sub(r"`\g<0>`", part) for part in parts[::2]]
    text = "`".join(parts)
    return text if text.endswith(".") else f"{text}."


def command_parsers():
    """The parsers of `trn-jax`: `{"train": ArgumentParser, ...}`."""
    from trn_jax import cli
    from trn_jax.cli.arguments import Parser

    parser = Parser(prog="trn-jax")
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in cli.COMMANDS:
        add(commands)
    return dict(commands.choices)


def main_flags():
    """The flags of `python -m trn_jax.main`, without those of absl: absl's `Flag`s by name."""
    from absl import flags

    from trn_jax import main

    found = flags.FLAGS.flags_by_module_dict()[main.__name__]
    return {flag.name: flag for flag in found if not flag.name.startswith("config")}


def commands_page():
    """The help of every command."""
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "88"
    lines = []
    for name, parser in command_parsers().items():
        text = parser.format_help().rstrip()
        lines += [f"(command-{name})=", f"## trn-jax {name}", "", "```text", text, "```", ""]
    os.environ.pop("COLUMNS")
    if before is not None:
        os.environ["COLUMNS"] = before
    lines += ["## python -m trn_jax.main", ""]
    lines += ["Training, evaluation and calibration take these flags, too:", ""]
    for name, flag in sorted(main_flags().items()):
        default = "" if flag.default in (None, False) else f" (default: `{flag.default}`)"
        if flag.help.startswith("Alias for"):
            continue
        about = re.sub("^<.*?>: ", "", " ".join(flag.help.split()))
        values = getattr(flag.parser, "enum_values", [])
        among = f" One of {', '.join(f'`{value}`' for value in values)}." if values else ""
        lines += [f"`--{name}`{default}", f": {_prose(about)}{among}", ""]
    return "\n".join(lines)


def recipes_page():
    """Every recipe: its docstring, and published and measured accuracies."""
    import results_table
    from trn_jax import config

    lines = []
    for name in config.recipe_names():
        recipe = config.recipe(name)
        title, _, text = recipe.__doc__.strip().partition("\n")
        text = re.sub(r"(?<=\S) {4,}", r" \\\n        ", text)  # a command of two lines
        found = recipe.get_config()
        lines += [f"(recipe-{name.replace('_', '-')})=", f"### {name}", "", title, text, ""]
        lines += [f"Model `{found.model.name}`; protocols {_listed(found.protocols)}.", ""]
        rows = []
        for protocol, row in found.published.items():
            measured = results_table.measured(name, protocol)
            here = results_table.percent(measured["metrics"]["top1"]) if measured else "not run"
            there = [f"{row[key]:.2f}" for key in ("top1", "top5") if key in row]
            rows.append([f"`{protocol}`", " / ".join(there), here])
        if rows:
            header = ["protocol", "published top-1 / top-5", "measured top-1"]
            lines += [results_table.markdown(header, rows), ""]
    return "\n".join(lines)


def _listed(names):
    return ", ".join(f"`{name}`" for name in sorted(names))


def synthetic_table():
    """Measured accuracies on the synthetic clips."""
    import results_table

    return results_table.synthetic_table()


def origins_table():
    """The configuration of another project that each recipe follows."""
    import results_table
    from trn_jax import config

    rows = {}
    for name in config.recipe_names():
        for row in config.recipe(name).get_config().published.values():
            source = re.sub(r",? configs/.*|,? README.*", "", row.source)
            if "config" in row:
                rows[row.config, source] = [f"`{row.config}`", source, f"`{name}`"]
    return results_table.markdown(["configuration", "of", "recipe"], sorted(rows.values()))


def folders_table():
    """The folders of the package, by the first lines of their docstrings."""
    import results_table

    rows = []
    for path in sorted(_KEYS.parent.glob("*/__init__.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append([f"`{path.parent.name}`", about.split("\n")[0]])
    return results_table.markdown(["in `trn_jax/`", "has"], rows)


def gpu_session_tables():
    """What `scripts/gpu_session.sh` measured, from docs/gpu_session.json."""
    from benchmarks import session

    stored = session.STORED
    return session.page(json.loads(stored.read_text()) if stored.exists() else None)


def notebook_page():
    """The cells of docs/first_model.ipynb, with what they print and draw."""
    lines = []
    for cell in json.loads(_NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            found = output.get("data", {"text/plain": output.get("text", "")})
            if "image/jpeg" in found:
                jpeg = "".join(found["image/jpeg"]).replace("\n", "")
                lines += [f"![What the cell draws](data:image/jpeg;base64,{jpeg})", ""]
            else:
                text = "".join(found["text/plain"]).rstrip()
                lines += ["```text", text, "```", ""]
    return "\n".join(lines)


PAGES = {
    "first_model.md": notebook_page,
    "config.md": config_page,
    "commands.md": commands_page,
    "recipes.md": recipes_page,
    "synthetic.md": synthetic_table,
    "origins.md": origins_table,
    "folders.md": folders_table,
    "gpu_session.md": gpu_session_tables,
}


def write(folder):
    """Write all generated pages to a folder; files that don't change keep their time."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        path, text = folder / name, make() + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="for the pages")
    write(parser.parse_args().folder)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
