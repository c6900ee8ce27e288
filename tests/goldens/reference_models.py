"""The models of `cases/` and `train/`, with the weights and clips behind their numbers."""

import weights
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.backbones.non_local import MODES

NON_LOCAL = {
    f"tsm_r50_nl_{mode}": dict(name="tsm_resnet50", num_classes=400, non_local=mode)
    for mode in MODES
}
# Arguments of `create_model`, by case.
CASES = {
    "tsn_r50_3seg": dict(name="tsn_resnet50", num_classes=400, num_segments=3),
    "trn_r50_single": dict(name="trn_resnet50", num_classes=174, head="trn"),
    "trn_r50_multiscale": dict(
        name="trn_resnet50", num_classes=174, partial_bn=True, eval_relations="first"
    ),
    "tsn_r101_8seg": dict(name="tsn_resnet101", num_classes=400),
    "tsm_r50": dict(name="tsm_resnet50", num_classes=400),
    "tsm_r50_16seg": dict(name="tsm_resnet50", num_classes=174, num_segments=16),
    "tsm_r101": dict(name="tsm_resnet101", num_classes=174),
    "tsm_mobilenetv2": dict(name="tsm_mobilenetv2", num_classes=400),
    **NON_LOCAL,
    "tin_r50": dict(name="tin_resnet50", num_classes=174),
    "tpn_slowonly_r50": dict(name="tpn_slowonly_resnet50", num_classes=400),
    "tpn_tsm_r50": dict(name="tpn_tsm_resnet50", num_classes=174),
    "trn_bninception_multiscale": dict(
        name="trn_bninception", num_classes=27, eval_relations="first"
    ),
    "tsn_densenet161": dict(name="tsn_densenet161", num_classes=400, num_segments=3),
    "tsn_resnext101_32x4d": dict(name="tsn_resnext101_32x4d", num_classes=400),
    "tsn_mobileone_s4": dict(name="tsn_mobileone_s4", num_classes=400),
    "tsn_swin_base": dict(name="tsn_swin_base", num_classes=400, num_segments=3),
}


# The deployed form of a case, whose weights are not drawn but computed from those of the case.
DEPLOYED = {"tsn_mobileone_s4_deploy": CASES["tsn_mobileone_s4"] | dict(deploy=True)}


def prepare(numbers, name):
    """Our model with the weights of the golden, and the golden's clips."""
    model = nnx.eval_shape(lambda: create_model(**CASES[name]))
    convert.load_state_dict(model, state_dict(numbers))
    return model, clips_of(numbers)


def state_dict(numbers):
    """The golden's weights, by the names of the reference: `{name: float32 array}`."""
    drawn = numbers["weights"]
    return weights.deterministic_state_dict(
        numbers["manifest"], drawn["seed"], norm_weight=drawn["norm_weight"], gains=drawn["gains"]
    )


def clips_of(numbers):
    """The golden's clips."""
    return weights.deterministic_clip(numbers["input"]["shape"], numbers["input"]["seed"])
