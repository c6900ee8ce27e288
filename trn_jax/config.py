"""The configuration: every key, its unit and its default. Recipes say where they differ."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def view(**changes):
    """How clips are cut out of a video: one schema for training, validation and every protocol."""
    keys = ConfigDict(
        dict(
            num_segments=8,  # frames of a clip
            # One "random" frame of each segment, its "center", or "twice": 2 clips, the centers and
            # the starts. Or clips of frames at equal distances: "random_clips" or "clips". Or
            # windows of sample_range frames: a "random_dense" one, or num_clips "dense" ones.
            sampling="center",
            frame_order="forward",  # "forward", "reversed" or "shuffled": does order matter?
            num_clips=1,  # "random_clips", "clips", "dense": clips per video
            frame_interval=1,  # "random_clips", "clips": between frames of a clip, in frames
            clip_positions="ends",  # "clips": from end to end, or in the "middles" of equal parts
            out_of_bound="loop",  # frames behind the end: "loop" to the start, or "repeat_last"
            sample_range=64,  # "random_dense", "dense": frames of the video that a clip spans
            short_videos="spread",  # "random", "center": or "first", that frame for all segments
            keep_tail_frames=False,  # "random", "random_clips": parts have fractions of a frame
            short_side=256,  # of the frames before cropping, pixels; 0: as they are (random crops)
            crop="center",  # "multi_scale", "random_resized" (random), "center", "three" or "ten"
            crop_size=224,  # pixels
            scales=(1.0, 0.875, 0.75, 0.66),  # of the multi-scale crop, shares of the short side
            num_positions=13,  # of the multi-scale crop, 5 or 13
            max_scale_gap=1,  # of the multi-scale crop: between the scales of width and height
            area_range=(0.08, 1.0),  # of the random resized crop, shares of the frame's area
            aspect_ratio_range=(3 / 4, 4 / 3),  # of the random resized crop, width / height
            flip_rate=0.0,  # share of the clips that is mirrored
            flip_labels=True,  # mirrored clips get the label of the mirror-image class, told from
            # "left" and "right", "clockwise" and "counterclockwise" in the names of the classes
            flip_pairs=(),  # more pairs of such classes: (("<name>", "<name>"), ...)
            color_jitter=(0.0, 0.0, 0.0, 0.0),  # strengths of brightness, contrast, saturation, hue
            merge_views="model",  # mean of the views' "logits" or "probabilities", or the model's
        )
    )
    keys.lock().update(changes)
    return keys


def base(*, dataset, model, num_classes):
    """The defaults of all recipes.

    Args:
        dataset: one of `trn_jax.data.datasets.DATASETS`.
        model: one of `trn_jax.list_models()`.
        num_classes: number of classes.

    Returns:
        A locked `ConfigDict`: an unknown key raises. A `None` of the sections `model` and `data`
        stands for the choice of the named model or data set.
    """
    config = ConfigDict()
    config.seed = 0
    config.data_dir = placeholder(str)  # folder of the data set; None: data/<dataset>, or, for the
    # synthetic one, which is written on first use, <parent of workdir>/data/synthetic

    config.init_from = placeholder(str)  # .pth, .safetensors or .npz file with weights for the
    # backbone to start from, of ImageNet or of another model, or a folder with the published file
    # (init_url); None: random weights
    config.init_head = False  # begin with the neck and the head of that file, too
    config.init_url = placeholder(str)  # where the file is published that the recipe's numbers
    # started from

    # Keyword arguments of trn_jax.create_model.
    config.model = dict(
        name=model,
        num_classes=num_classes,
        num_segments=8,  # frames of a clip in training
        dtype="float32",  # of the computation: "float32" or "bfloat16"; parameters are float32
        norm_group=0,  # clips that share batch statistics: the published batch of a GPU; 0: all
        backbone=placeholder(str),
        temporal_op=placeholder(str),
        neck=placeholder(str),
        head=placeholder(str),
        width=placeholder(int),  # channels of a ResNet's stem
        shift_div=placeholder(int),  # TSM, TIN: 1 / shift_div of the channels moves in time
        shift_place=placeholder(str),  # TSM: "blockres" (residual branch only) or "block"
        shift_every=placeholder(int),  # TSM, TIN: every how many blocks of a stage
        shift_segments=placeholder(int),  # TSM: features move inside runs of so many frames
        causal=placeholder(bool),  # TSM: features move to later frames only
        partial_bn=placeholder(bool),  # freeze all batch norms but the first
        frozen_stages=placeholder(int),  # freeze the stem (0) and the first stages (1, 2, ...)
        remat=placeholder(int),  # compute the activations inside the blocks of the first so many
        # stages of the backbone again in the backward pass: less memory, more operations; None: 0
        dropout_rate=placeholder(float),
        drop_path_rate=placeholder(float),  # Swin: how often the last block is left out
        deploy=placeholder(bool),  # MobileOne: one branch per block, as `reparameterize` makes them
        init_std=placeholder(float),  # of the first weights of the layer on the features
        eval_relations=placeholder(str),  # TRN: "expected", "first" or "sample"
        train_relations=placeholder(str),
    )

    config.data = dict(
        dataset=dataset,
        source=placeholder(str),  # "frames", "videos" or "records"; None: what is there
        frames=placeholder(str),  # folder of the frame folders or videos, relative to data_dir
        val_frames=placeholder(str),  # the same for validation; "": they lie in the same folder
        train_list=placeholder(str),  # lines "<folder> <num_frames> <label>"
        val_list=placeholder(str),
        multi_label=False,  # lines go on with further labels; every class is a question of its own:
        # binary cross-entropy, sigmoid scores, the best checkpoint is the one of the best mAP
        class_names=placeholder(str),  # one name per line
        frame_pattern=placeholder(str),  # such as "{:05d}.jpg"
        first_frame=placeholder(int),  # number of the first frame
        balanced=False,  # training: draw all classes equally often, not all videos once per epoch
        on_error="skip",  # unreadable videos: "skip" (in training the next readable one takes the
        # place, in evaluation they count as wrong; all are counted and named) or "raise"
        max_pixels=100_000_000,  # of a frame; images and videos with more are unreadable
        exact_resize=False,  # training: resize-crop-resize as published, at a fifth of the speed
        fast_decode=False,  # training: JPEGs are decoded approximately, most pixels less than a
        # level off, and at 1/2, 1/4 or 1/8 of their size where short_side leaves as little
        num_threads=0,  # that decode; 0: one per processor
        num_workers=0,  # worker processes; 0: threads only
        train=view(sampling="random", crop="multi_scale"),
        val=view(),  # evaluated during training, on val_list
    )

    config.train = dict(
        batch=64,  # clips per step, over all devices and hosts
        accumulation=1,  # parts that a batch is computed in, one after the other
        epochs=50.0,
        steps=0,  # stop after so many steps; 0: after `epochs`
        loss_weight=1.0,  # factor of the loss. With data.multi_label it is a mean over the classes,
        # most of which are absent: mmaction2 takes 160 for the 313 of Multi-Moments in Time
        label_smoothing=0.0,  # share of every label that is spread over all classes
        class_weights="equal",  # of the loss: "equal", or "balanced", inverse to the videos of each
        shard_state="none",  # what is cut over the devices instead of being whole on each of them:
        # the state of the "optimizer", or "all", parameters too: less memory, more communication
        on_nan="stop",  # when the loss or the gradient of a step is not finite: "stop" the training
        # and name the videos of that batch, or "skip" what the step would have changed and go on
        step_timeout=900.0,  # seconds in which something has to happen (a step, clips evaluated),
        # five times as many where programs are compiled; else all hosts say where they hang and end
        # with status 76. 0: wait for ever
        log_every=20,  # steps
        eval_every=1.0,  # epochs; 0: only at the end
        checkpoint_every=1000,  # steps; a checkpoint is also written after every evaluation
        keep=3,  # checkpoints; the best one is kept besides
    )

    config.optim = dict(
        lr=0.01,  # for a batch of base_batch
        base_batch=64,  # the batch that lr was published for
        scale_lr=False,  # multiply lr by train.batch / base_batch
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,  # coupled: added to the gradient
        clip_norm=40.0,  # largest global norm of the gradient; 0: no clipping
        groups="plain",  # "plain", or "tsm": biases at twice the rate, decay on weights only
        fc_lr5=False,  # "tsm" groups: the layer on the backbone's features at 5 times the rate
        backbone_rate=1.0,  # factor of the rate for the backbone, such as 0.1 in fine-tuning
        schedule="multistep",  # "multistep", "cosine" or "constant"
        milestones=(20.0, 40.0),  # epochs after which "multistep" multiplies lr by gamma
        gamma=0.1,
        warmup_epochs=0.0,
        warmup_start=0.1,  # share of lr that the warm-up begins with
        warmup_by="step",  # the warm-up rises with every "step" or with every "epoch"
        final_ratio=0.0,  # what "cosine" ends with, as a share of lr
        cosine_by="step",  # "cosine" falls at every "step" or at every "epoch"
        style="mmengine",  # of warm-up and cosine: "mmengine", or "mmcv" as in mmaction2 0.x
    )

    config.eval = dict(
        max_views_per_step=16,  # clips computed at a time, of whatever videos and protocols
    )

    config.protocols = dict(efficient=view())
    config.published = dict()  # protocol -> top1, top5 in per cent, and their source
    config.lock()
    for section in (config.protocols, config.published):
        section.unlock()  # recipes add entries
    config.protocols.efficient.lock()
    return config
