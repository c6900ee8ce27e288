"""Read your own videos as training batches: python examples/own_dataset.py <folder> <to>."""

import sys

from trn_jax import config
from trn_jax.prepare import custom
from trn_jax.recipe_data import Data

folder, to = sys.argv[1:]  # <folder>/<class>/<video>.mp4; the lists go to <to>
print(custom.prepare_custom(folder, to))

settings = config.recipe("small").get_config()
settings.data_dir = to
settings.train.batch = 4

data = Data(settings, "runs/own_dataset")
batches = data.train_batches(first_batch=0)  # endless, reproducible by seed
for number, batch in zip(range(3), batches, strict=False):
    print(f"batch {number}: clips {batch['clip'].shape}, labels {batch['label'].tolist()}")
data.close()
