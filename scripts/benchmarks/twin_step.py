"""The training step of a model's twin in PyTorch."""

import copy
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from trn_jax.errors import UserError


class TwinStepper:
    """Takes training steps of the twin of a recipe's model, each on what the last one left.

    The step is the recipe's: its loss, its clipping of the gradient, its SGD, its frozen batch
    norms; in bfloat16 where the recipe's model computes in it (`torch.autocast`), with float32
    weights. But there is one group of parameters, one rate for all steps, and the statistics of
    batch norms are those of all clips that are computed together.

    Args:
        config: see `trn_jax.config.base`.
        clips: uint8 `[batch, segments, height, width, 3]`.
        labels: `[batch]`, or float32 `[batch, classes]` of 0 and 1.
        device: "cpu" or "cuda".

    Attributes:
        twin: the model.
        clips: on the device.

    Raises:
        UserError: PyTorch is not there, or has no such step.
    """

    def __init__(
        self, config: ConfigDict, clips: np.ndarray, labels: np.ndarray, *, device: str = "cpu"
    ):
        from trn_jax.torch_models import create_torch_model, torch

        if config.model.frozen_stages is not None:
            raise UserError(
                "the twin in PyTorch freezes no stages; leave model.frozen_stages out to compare"
            )
        # Numbers too small to be normal slow PyTorch's CPU form down a hundredfold; XLA takes them
        # for 0 anyway. On a GPU, XLA chooses the fastest form of each convolution and computes
        # float32 products in TF32; so PyTorch may.
        torch.set_flush_denormal(True)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
        self._torch, self._device = torch, device
        self.twin = create_torch_model(**config.model).to(device)
        self.clips = torch.from_numpy(clips).to(device)
        wide = np.float32 if labels.ndim > 1 else np.int64
        self._labels = torch.from_numpy(labels.astype(wide)).to(device)
        self._config = config
        self._frozen = _norms(torch, self.twin)[1:] if config.model.partial_bn else []
        for norm in self._frozen:
            norm.requires_grad_(False)
        self._parameters = [each for each in self.twin.parameters() if each.requires_grad]
        optim = config.optim
        self._optimizer = torch.optim.SGD(
            self._parameters,
            optim.lr,
            optim.momentum,
            weight_decay=optim.weight_decay,
            nesterov=optim.nesterov,
        )
        self._loss = self._whole_loss

    def compiled(self) -> "TwinStepper":
        """Steps on the same weights, with loss and gradient compiled by `torch.compile`."""
        other = copy.copy(self)
        other._loss = self._torch.compile(self._whole_loss)
        return other

    def weights(self) -> dict[str, np.ndarray]:
        """The twin's weights, for ours to start from."""
        return {name: value.cpu().numpy() for name, value in self.twin.state_dict().items()}

    def __call__(self, steps: int) -> float:
        """Take so many steps, and wait for the last; returns its loss."""
        self.twin.train()
        for norm in self._frozen:
            norm.eval()
        parts, limit = self._config.train.accumulation, self._config.optim.clip_norm
        for _ in range(steps):
            self._optimizer.zero_grad()
            losses = []
            for clips, labels in zip(
                self.clips.chunk(parts), self._labels.chunk(parts), strict=True
            ):
                loss = self._loss(clips, labels) / parts
                loss.backward()
                losses.append(loss.detach())
            if limit:
                self._torch.nn.utils.clip_grad_norm_(self._parameters, limit)
            self._optimizer.step()
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        return sum(loss.item() for loss in losses)

    def forget_peak(self) -> None:
        """Let `peak` begin anew."""
        if self._device == "cuda":
            self._torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """The bytes of the GPU that PyTorch had in use at most; `None` on a CPU."""
        return self._torch.cuda.max_memory_allocated() if self._device == "cuda" else None

    def evaluate(self, steps: int) -> np.ndarray:
        """Score the clips so many times; returns the logits, float32 `[batch, classes]`."""
        self.twin.eval()
        with self._torch.inference_mode():
            for _ in range(steps):
                logits = self.twin(self.clips)
        return logits.cpu().numpy()

    def _whole_loss(self, clips: Any, labels: Any) -> Any:
        enabled = self._config.model.dtype == "bfloat16"
        with self._torch.autocast(self._device, self._torch.bfloat16, enabled=enabled):
            logits, auxiliary = self.twin.outputs(clips)
        loss = self._classification_loss(logits, labels)
        if auxiliary is not None:
            loss = loss + self.twin.auxiliary_weight * self._classification_loss(auxiliary, labels)
        return loss

    def _classification_loss(self, logits: Any, labels: Any) -> Any:
        functional, train = self._torch.nn.functional, self._config.train
        if labels.ndim > 1:
            loss = functional.binary_cross_entropy_with_logits(logits.float(), labels)
        else:
            smoothing = train.label_smoothing
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        return train.loss_weight * loss


def _norms(torch: Any, twin: Any) -> list[Any]:
    kinds = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    return [module for module in twin.modules() if isinstance(module, kinds)]
