"""The training step of a recipe in PyTorch."""

import copy
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from trn_jax.errors import UserError


class TorchStepper:
    """Takes training steps of a recipe with its model in PyTorch.

    Loss, gradient clipping, SGD and frozen batch norms are the recipe's, and so is the dtype
    (`torch.autocast` for bfloat16, with float32 weights). Simplified are the parameters (one
    group), the learning rate (constant) and batch statistics (over all clips that are computed
    together).

    Args:
        config: see `trn_jax.config.base`.
        clips: uint8 `[batch, segments, height, width, 3]`.
        labels: `[batch]`, or float32 `[batch, classes]` of 0 and 1.
        device: "cpu" or "cuda".

    Attributes:
        model: the PyTorch model.
        clips: on the device.

    Raises:
        UserError: PyTorch is not installed, or the recipe can't be compared.
    """

    def __init__(
        self, config: ConfigDict, clips: np.ndarray, labels: np.ndarray, *, device: str = "cpu"
    ):
        from trn_jax.torch_models import create_torch_model, torch

        if config.model.frozen_stages is not None:
            raise UserError(
                f"model.frozen_stages={config.model.frozen_stages}: the PyTorch model can't freeze "
                "stages; compare without it"
            )
        # As XLA does: denormals, which slow PyTorch down a hundredfold on CPUs, are 0; on GPUs,
        # convolution algorithms are autotuned and float32 products use TF32.
        torch.set_flush_denormal(True)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
        self._torch, self._device = torch, device
        self.model = create_torch_model(**config.model).to(device)
        self.clips = torch.from_numpy(clips).to(device)
        dtype = np.float32 if labels.ndim > 1 else np.int64
        self._labels = torch.from_numpy(labels.astype(dtype)).to(device)
        self._config = config
        self._frozen = _norms(torch, self.model)[1:] if config.model.partial_bn else []
        for norm in self._frozen:
            norm.requires_grad_(False)
        self._parameters = [each for each in self.model.parameters() if each.requires_grad]
        optim = config.optim
        self._optimizer = torch.optim.SGD(
            self._parameters,
            optim.lr,
            optim.momentum,
            weight_decay=optim.weight_decay,
            nesterov=optim.nesterov,
        )
        self._loss = self._total_loss

    def compiled(self) -> "TorchStepper":
        """A stepper of the same weights that computes loss and gradient with `torch.compile`."""
        compiled = copy.copy(self)
        compiled._loss = self._torch.compile(self._total_loss)
        return compiled

    def weights(self) -> dict[str, np.ndarray]:
        """Weights of the model, to load into the JAX model."""
        return {name: value.cpu().numpy() for name, value in self.model.state_dict().items()}

    def __call__(self, steps: int) -> float:
        """Take `steps` steps and wait; returns the loss of the last."""
        self.model.train()
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

    def reset_peak(self) -> None:
        """Restart the measurement of `peak`."""
        if self._device == "cuda":
            self._torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """Peak bytes of GPU memory that PyTorch used; `None` on a CPU."""
        return self._torch.cuda.max_memory_allocated() if self._device == "cuda" else None

    def evaluate(self, steps: int) -> np.ndarray:
        """Score the clips `steps` times; returns the logits, float32 `[batch, classes]`."""
        self.model.eval()
        with self._torch.inference_mode():
            for _ in range(steps):
                logits = self.model(self.clips)
        return logits.cpu().numpy()

    def _total_loss(self, clips: Any, labels: Any) -> Any:
        enabled = self._config.model.dtype == "bfloat16"
        with self._torch.autocast(self._device, self._torch.bfloat16, enabled=enabled):
            logits, auxiliary = self.model.outputs(clips)
        loss = self._classification_loss(logits, labels)
        if auxiliary is not None:
            loss = loss + self.model.auxiliary_weight * self._classification_loss(auxiliary, labels)
        return loss

    def _classification_loss(self, logits: Any, labels: Any) -> Any:
        functional, train = self._torch.nn.functional, self._config.train
        if labels.ndim > 1:
            loss = functional.binary_cross_entropy_with_logits(logits.float(), labels)
        else:
            smoothing = train.label_smoothing
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        return train.loss_weight * loss


def _norms(torch: Any, model: Any) -> list[Any]:
    kinds = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    return [module for module in model.modules() if isinstance(module, kinds)]
