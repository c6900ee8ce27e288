"""Calls functions of the page's JavaScript module by Node.js."""

import json
import pathlib
import shutil
import subprocess

import pytest

from trn_jax.export import page

MODULE = pathlib.Path(page.__file__).parent / "page" / "page.js"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")

# Bytes are sent as {bytes: base64}, so that images and files are small enough.
_DRIVER = """
import { readFileSync } from "node:fs";
import * as page from "./page.mjs";

const isBytes = (value) => typeof value?.bytes === "string";
const revived = (_, value) => (isBytes(value) ? Buffer.from(value.bytes, "base64") : value);
const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);
const calls = JSON.parse(readFileSync(0, "utf8"), revived);
const own = {
  windows: (...values) => [...page.videoWindows(...values)],
  arrays: (bytes) => page.npzArrays(new Uint8Array(bytes)),
  times: async (bytes) => page.listedTimes(new Blob([bytes])),
  metadata: (bytes) => page.metadataProps(new Uint8Array(bytes)),
  events: (names, settings, multiLabel, windows) => {
    const detector = new page.EventDetector(names, settings, multiLabel);
    return [...windows.flatMap((window) => detector.add(window)), ...detector.finish()];
  },
};
const results = [];
for (const [name, ...values] of calls) {
  try {
    results.push({ value: await (own[name] ?? page[name])(...values) });
  } catch (error) {
    if (!(error instanceof page.PageError)) throw error;
    results.push({ problem: error.message });
  }
}
process.stdout.write(JSON.stringify(results, plain));
"""


def call(folder, calls):
    """Call functions of the module.

    Args:
        folder: an empty one.
        calls: lists of a name and arguments that JSON can hold.

    Returns:
        What each of them returns, or `{"problem": text}`.
    """
    shutil.copyfile(MODULE, folder / "page.mjs")  # Node.js takes .js for another kind of module
    (folder / "driver.mjs").write_text(_DRIVER)
    done = subprocess.run(
        [NODE, "driver.mjs"],
        cwd=folder,
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [each.get("value", each) for each in json.loads(done.stdout)]
