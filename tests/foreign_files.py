"""Reads all files of `foreign_weights` and `foreign_scores` in bounded memory, as a script.

Prints the outcome of each as a line of JSON.
"""

import json
import os
import sys

import foreign_scores
import foreign_weights


def main(folder):
    """Read all of them, after writing them to a folder."""
    from bounded_reading import bound_memory, outcome

    from trn_jax.convert import prediction_dump, read_torch_file
    from trn_jax.evaluation import score_files

    del prediction_dump  # loaded now, as the bound counts from here
    readers = (
        ("weights", foreign_weights.weights(), read_torch_file),
        ("scores", foreign_scores.score_files(), score_files.read),
    )
    bound_memory(400)
    for kind, files, read in readers:
        for name, content in files.items():
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.write(content)
            print(json.dumps({"file": f"{kind}: {name}"} | outcome(read, path)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
