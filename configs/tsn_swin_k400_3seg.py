"""TSN with Swin-B on Kinetics-400, 3 segments.

    python -m trn_jax.main --config=configs/tsn_swin_k400_3seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_swin_k400_3seg

As `tsn_k400_3seg` but for the backbone; SGD and its rate are the same. Published, mmaction2 1.x
(`custom_backbones`): 77.03 % top-1, 92.61 % top-5.
"""

from configs import tsn_k400_3seg


def get_config(
    num_segments=3, top1=77.03, top5=92.61, row="swin-transformer_8xb32-1x1x3-100e_kinetics400-rgb"
):
    """The recipe; `row` is the rest of its name in the published table."""
    config = tsn_k400_3seg.get_config(
        model="tsn_swin_base", num_segments=num_segments, top1=top1, top5=top5, row=row
    )
    config.init_url = (
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
        "swin_base_patch4_window7_224_22kto1k.pth"
    )
    config.model.norm_group = 0  # there is no batch norm
    return config
