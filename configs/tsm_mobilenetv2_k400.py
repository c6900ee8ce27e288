"""TSM with MobileNetV2 on Kinetics-400, 8 frames.

    python -m trn_jax.main --config=configs/tsm_mobilenetv2_k400.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_mobilenetv2_k400

`tsm_k400` with a MobileNetV2 (Sandler et al., CVPR 2018), 100 epochs and less weight decay.
Published, mmaction2 1.x: 68.71 % top-1 and 88.32 % top-5 in three crops.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb",
        "20230414-401127fd",
        crops=3,
        gflops=3.269,
        million_parameters=2.736,
        top1=68.71,
        top5=88.32,
    )
    config = tsm_k400.get_config(published, model="tsm_mobilenetv2", protocol="1x3", crop="three")
    config.init_url = (
        "https://download.openmmlab.com/mmclassification/v0/mobilenet_v2/"
        "mobilenet_v2_batch256_imagenet_20200708-3b2dc3af.pth"
    )
    config.train.epochs = 100.0
    config.optim.update(weight_decay=2e-5, milestones=(40.0, 80.0), warmup_epochs=0.0)
    return config
