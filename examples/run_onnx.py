"""Classify a short video with an exported model: python run_onnx.py model.onnx film.mp4."""

import json
import sys

import av
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["trn_jax"])
view, calibration = about["contract"]["view"], about["calibration"] or {"temperature": 1}
known = {"sampling": ("center", "twice"), "crop": ("center", "three"), "frame_order": ("forward",)}
if about["form"] != "clip" or any(view[key] not in known[key] for key in known):
    sys.exit(f"this example needs --form=clip and a --protocol with one of {known}")
with av.open(sys.argv[2]) as container:
    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
length, order = len(frames) / view["num_segments"], np.arange(view["num_segments"])
starts = [order * length + length / 2, order * length][: 1 + (view["sampling"] == "twice")]
clips = np.stack([[frames[int(start)] for start in each] for each in starts])
(height, width), size = clips.shape[2:4], view["crop_size"]
for axis, old in ((3, width), (2, height)):  # bilinear, rounded like OpenCV's
    new = int(old * view["short_side"] / min(height, width) + 0.5)
    at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low, share = at.astype(int), (at % 1).astype(np.float32).reshape(-1, *[1] * (4 - axis))
    high = np.minimum(low + 1, old - 1)
    ends = clips.take(low, axis) * (1 - share), clips.take(high, axis) * share
    clips = sum(ends) if axis == 3 else (sum(np.floor(4 * end) for end in ends) + 2) // 4
middle = (np.array(clips.shape[2:4]) - size) // 2
corners = [middle] if view["crop"] == "center" else [0 * middle, 2 * middle, middle]
crops = [clips[:, :, y : y + size, x : x + size] for y, x in corners]
(logits,) = session.run(None, {"clips": np.concatenate(crops).astype(np.uint8)})
many, merge = about["multi_label"], view["merge_views"].replace("model", about["merge_views"])
logits = logits.astype(float).mean(0, keepdims=True) if merge == "logits" else logits.astype(float)
odds = np.exp(logits if many else logits - logits.max(-1, keepdims=True))
scores = (odds / (1 + odds if many else odds.sum(-1, keepdims=True))).mean(0)
odds = (scores / (1 - scores if many else 1)) ** (1 / calibration["temperature"])
scores = odds / (1 + odds if many else odds.sum())
for index in np.argsort(-scores)[:5]:
    print(f"{scores[index]:.4f}  {about['class_names'][index]}")
