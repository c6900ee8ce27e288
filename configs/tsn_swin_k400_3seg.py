"""TSN with Swin-B on Kinetics-400, 3 segments.

    python -m trn_jax.main --config=configs/tsn_swin_k400_3seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_swin_k400_3seg

`tsn_k400_3seg` with another backbone and the same SGD. Published, mmaction2 1.x
(`custom_backbones`): 77.03 % top-1, 92.61 % top-5.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")


def row(name, version, **accuracies):
    """A row of the published table, see `tsn_k400_3seg.row`."""
    cost = dict(gflops=386.7, million_parameters=87.15)
    return tsn_k400_3seg.row(f"swin-transformer_{name}", version, **cost, **accuracies)


_ROW = row("8xb32-1x1x3-100e_kinetics400-rgb", "20220906-65ed814e", top1=77.03, top5=92.61)


def get_config(published=_ROW, *, num_segments=3):
    """The recipe; `published` is its row in the published table."""
    config = tsn_k400_3seg.get_config(published, num_segments=num_segments, model="tsn_swin_base")
    config.init_url = (
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
        "swin_base_patch4_window7_224_22kto1k.pth"
    )
    config.model.norm_group = 0  # Swin has no batch norm
    return config
