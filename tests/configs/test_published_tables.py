"""The columns of the published tables, written down once more, against those of the recipes."""

import pytest
from recipe_files import NAMES as RECIPES
from recipe_files import load

# Epochs between evaluations in the published configuration (that of MindSpore has the 5 of its
# checkpoints), and the columns of the table: resolution, GPUs, pretrain, testing protocol, GFLOPs,
# million parameters, MB per GPU.
_TSN = ("224x224", "8", "ImageNet", "25 clips x 10 crop")
_TSM = ("224x224", "8", "ImageNet", "8 clips x 10 crop")
_R50 = (*_TSN, 102.7, 24.33, None)
_SWIN = (*_TSN, 386.7, 87.15, None)
COLUMNS = {
    "tin_k400": (5, "short-side 256", "8x4", "TSM-Kinetics400", None, None, None, 6187),
    "tin_sthv1": (5, "height 100", "8x4", "ImageNet", None, None, None, 6181),
    "tin_sthv2": (2, "height 240", "8x4", "ImageNet", None, None, None, 6185),
    "tpn_slowonly_k400": (
        *(10, "short-side 320", "8", "ImageNet"),
        *("10 clips x 3 crop", None, None, 6916),
    ),
    "tpn_slowonly_k400_scratch": (
        *(10, "short-side 320", "8x2", "None"),
        *("10 clips x 3 crop", None, None, 6916),
    ),
    "tpn_tsm_sthv1": (5, "height 100", "8x6", "TSM", "8 clips x 3 crop", None, None, 8828),
    "trn_bninception_jester": (5, None, "8", "ImageNet", None, None, None, None),
    "trn_sthv1": (1, "height 100", "8", "ImageNet", None, None, None, 11010),
    "trn_sthv2": (1, "height 256", "8", "ImageNet", None, None, None, 11010),
    "tsm_jester": (2, "height 100", "8", "ImageNet", None, None, None, None),
    "tsm_k400": (1, "224x224", "8", "ImageNet", "8 clips x 10 crop", 32.88, 23.87, None),
    "tsm_k400_100e": (1, *_TSM, 32.88, 23.87, None),
    "tsm_k400_16seg": (1, *_TSM[:3], "16 clips x 10 crop", 65.75, 23.87, None),
    "tsm_k400_dense8": (1, *_TSM, 32.88, 23.87, None),
    "tsm_k400_dot_product": (1, *_TSM, 61.30, 31.68, None),
    "tsm_k400_embedded_gaussian": (1, *_TSM, 61.30, 31.68, None),
    "tsm_k400_gaussian": (1, *_TSM, 59.06, 28.00, None),
    "tsm_mobilenetv2_k400": (1, *_TSM[:3], "8 clips x 3 crop", 3.269, 2.736, None),
    "tsm_mobileone_k400_16seg": (1, *_TSM[:3], "16 clips x 10 crop", 48.65, 13.72, None),
    "tsm_resnet101_sthv2": (1, *_TSM[:3], "8 clips x 3 crop", 62.66, 42.86, None),
    "tsm_sthv1": (2, "height 100", "8", "ImageNet", None, None, None, 7077),
    "tsm_sthv2": (1, "224x224", "8", "ImageNet", "8 clips x 3 crop", 32.88, 23.87, None),
    "tsm_sthv2_16seg": (1, *_TSM[:3], "16 clips x 3 crop", 65.75, 23.87, None),
    "tsn_densenet161_k400_3seg": (1, *_TSN, 194.6, 27.36, None),
    "tsn_k400_3seg": (1, *_R50),
    "tsn_k400_5seg": (1, *_R50),
    "tsn_k400_8seg": (1, *_R50),
    "tsn_k400_dense5": (1, *_R50),
    "tsn_mobileone_k400_8seg": (1, *_TSN, 76, 13.72, None),
    "tsn_resnet101_k400_8seg": (1, *_TSN, 195.8, 43.32, None),
    "tsn_resnext101_k400_3seg": (1, *_TSN, 200.3, 42.95, None),
    "tsn_sthv2_16seg": (5, *_R50),
    "tsn_sthv2_8seg": (5, *_R50),
    "tsn_swin_k400_3seg": (1, *_SWIN),
    "tsn_swin_k400_8seg": (1, *_SWIN),
}
# The file of each checkpoint.
CHECKPOINTS = {
    "tin_k400": "tin_tsm_finetune_r50_1x1x8_50e_kinetics400_rgb_20200810-4a146a70.pth",
    "tin_sthv1": "tin_r50_1x1x8_40e_sthv1_rgb_20200729-4a33db86.pth",
    "tin_sthv2": "tin_r50_1x1x8_40e_sthv2_rgb_20200912-b27a7337.pth",
    **{
        recipe: f"tpn-{name}.pth"
        for recipe, name in {
            "tpn_slowonly_k400": "slowonly_imagenet-pretrained-r50_8xb8-8x8x1-150e_kinetics400-rgb"
            "_20220913-fed3f4c1",
            "tpn_slowonly_k400_scratch": "slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb"
            "_20220913-97d0835d",
            "tpn_tsm_sthv1": "tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb"
            "_20230221-940a3615",
        }.items()
    },
    "trn_bninception_jester": None,
    "trn_sthv1": "trn_r50_1x1x8_50e_sthv1_rgb_20210401-163704a8.pth",
    "trn_sthv2": "trn_r50_1x1x8_50e_sthv2_rgb_20210816-7abbc4c1.pth",
    "tsm_jester": "tsm_r50_1x1x8_50e_jester_rgb-c799267e.pth",
    "tsm_sthv1": "tsm_r50_1x1x8_50e_sthv1_rgb_20210203-01dce462.pth",
    **{
        f"tsm_{recipe}": f"tsm_imagenet-pretrained-{name}.pth"
        for recipe, name in {
            "k400": "r50_8xb16-1x1x8-50e_kinetics400-rgb_20220831-64d69186",
            "k400_100e": "r50_8xb16-1x1x8-100e_kinetics400-rgb_20220831-a6db1e5d",
            "k400_16seg": "r50_8xb16-1x1x16-50e_kinetics400-rgb_20220831-042b1748",
            "k400_dense8": "r50_8xb16-dense-1x1x8-50e_kinetics400-rgb_20220831-f55d3c2b",
            "k400_dot_product": "r50-nl-dot-product_8xb16-1x1x8-50e_kinetics400-rgb"
            "_20220831-108bfde5",
            "k400_embedded_gaussian": "r50-nl-embedded-gaussian_8xb16-1x1x8-50e_kinetics400-rgb"
            "_20220831-35eddb57",
            "k400_gaussian": "r50-nl-gaussian_8xb16-1x1x8-50e_kinetics400-rgb_20220831-7e54dacf",
            "mobilenetv2_k400": "mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb_20230414-401127fd",
            "mobileone_k400_16seg": "mobileone-s4_8xb16-1x1x16-50e_kinetics400-rgb"
            "_20230825-a7f8876b",
            "resnet101_sthv2": "r101_8xb16-1x1x8-50e_sthv2-rgb_20230320-efcc0d1b",
            "sthv2": "r50_8xb16-1x1x8-50e_sthv2-rgb_20230317-be0fc26e",
            "sthv2_16seg": "r50_8xb16-1x1x16-50e_sthv2-rgb_20230317-ec6696ad",
        }.items()
    },
    **{
        f"tsn_{recipe}": f"tsn_imagenet-pretrained-{name}.pth"
        for recipe, name in {
            "densenet161_k400_3seg": "dense161_8xb32-1x1x3-100e_kinetics400-rgb_20220906-5f4c0daf",
            "k400_3seg": "r50_8xb32-1x1x3-100e_kinetics400-rgb_20220906-cd10898e",
            "k400_5seg": "r50_8xb32-1x1x5-100e_kinetics400-rgb_20220906-65d68713",
            "k400_8seg": "r50_8xb32-1x1x8-100e_kinetics400-rgb_20220906-2692d16c",
            "k400_dense5": "r50_8xb32-dense-1x1x5-100e_kinetics400-rgb_20220906-dcbc6e01",
            "mobileone_k400_8seg": "mobileone-s4_8xb32-1x1x8-100e_kinetics400-rgb"
            "_20230825-2da3c1f7",
            "resnet101_k400_8seg": "r101_8xb32-1x1x8-100e_kinetics400-rgb_20220906-23cff032",
            "resnext101_k400_3seg": "rn101-32x4d_8xb32-1x1x3-100e_kinetics400-rgb"
            "_20221209-de2d5615",
            "sthv2_16seg": "r50_8xb32-1x1x16-50e_sthv2-rgb_20230221-85bcc1c3",
            "sthv2_8seg": "r50_8xb32-1x1x8-50e_sthv2-rgb_20230313-06ad7d03",
            "swin_k400_3seg": "swin-transformer_8xb32-1x1x3-100e_kinetics400-rgb_20220906-65ed814e",
            "swin_k400_8seg": "swin-transformer_32xb8-1x1x8-50e_kinetics400-rgb_20230530-428f0064",
        }.items()
    },
}
# Of the original code, by recipe and protocol.
REFERENCES = {
    "tin_sthv1": {"efficient": (44.04, 72.72)},
    "tin_sthv2": {"efficient": (56.48, 83.45)},
    "tpn_slowonly_k400": {"10x3": (75.49, 92.05)},
    "trn_sthv1": {"efficient": (30.542, 58.627)},
    "tsm_sthv1": {"efficient": (45.50, 74.34), "accurate": (47.33, 76.60)},
}
_KEYS = (
    *("resolution", "gpus", "pretrain", "testing_protocol", "gflops", "million_parameters"),
    "gpu_memory",
)


@pytest.mark.parametrize("name", COLUMNS)
def test_recipes_have_the_columns_of_their_published_rows(name):
    config = load(name)
    assert config.published
    for protocol, row in config.published.items():
        assert (config.train.eval_every, *(row.get(key) for key in _KEYS)) == COLUMNS[name]
        assert row.get("checkpoint") == CHECKPOINTS[name]
        reference = row.get("reference_top1"), row.get("reference_top5")
        assert reference == REFERENCES.get(name, {}).get(protocol, (None, None))
        if "checkpoint" in row:
            stem = row.config.removesuffix(".py")
            assert row.checkpoint.startswith(stem) and row.source.endswith(stem)


def test_every_published_recipe_has_its_columns_here():
    assert set(COLUMNS) == set(CHECKPOINTS) == {name for name in RECIPES if load(name).published}
