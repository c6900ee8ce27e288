"""TFDS builders of the public data sets."""

from trn_jax.tfds.video_folder import VideoFolder

_GOYAL = """@inproceedings{goyal2017something,
  title = {The "Something Something" Video Database for Learning and Evaluating Visual Common
    Sense},
  author = {Goyal, Raghav and Ebrahimi Kahou, Samira and Michalski, Vincent and others},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  year = {2017}
}"""


class SomethingSomethingV1(VideoFolder):
    """Something-Something V1."""

    DATASET = "sthv1"
    NUM_CLASSES = 174
    DESCRIPTION = "Something-Something V1: people do things with everyday objects, at 12 frames/s."
    CITATION = _GOYAL


class SomethingSomethingV2(VideoFolder):
    """Something-Something V2."""

    DATASET = "sthv2"
    NUM_CLASSES = 174
    DESCRIPTION = "Something-Something V2: the classes of V1, with twice the videos."
    CITATION = _GOYAL


class Jester(VideoFolder):
    """Jester V1."""

    DATASET = "jester"
    NUM_CLASSES = 27
    DESCRIPTION = "Jester V1: hand gestures in front of a webcam."
    CITATION = """@inproceedings{materzynska2019jester,
  title = {The Jester Dataset: A Large-Scale Video Dataset of Human Gestures},
  author = {Materzynska, Joanna and Berger, Guillaume and Bax, Ingo and Memisevic, Roland},
  booktitle = {IEEE International Conference on Computer Vision Workshops},
  year = {2019}
}"""


class Kinetics400(VideoFolder):
    """Kinetics-400."""

    DATASET = "k400"
    NUM_CLASSES = 400
    DESCRIPTION = "Kinetics-400: human actions in ten seconds of YouTube videos."
    CITATION = """@article{kay2017kinetics,
  title = {The Kinetics Human Action Video Dataset},
  author = {Kay, Will and Carreira, Joao and Simonyan, Karen and others},
  journal = {arXiv preprint arXiv:1705.06950},
  year = {2017}
}"""


class Charades(VideoFolder):
    """Charades."""

    DATASET = "charades"
    NUM_CLASSES = 157
    MULTI_LABEL = True
    DESCRIPTION = "Charades: scripted activities at home, with several labels per video."
    CITATION = """@inproceedings{sigurdsson2016hollywood,
  title = {Hollywood in Homes: Crowdsourcing Data Collection for Activity Understanding},
  author = {Sigurdsson, Gunnar A. and Varol, Gul and Wang, Xiaolong and others},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year = {2016}
}"""
