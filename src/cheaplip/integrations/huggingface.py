"""CLIP for the ``Trainer`` of transformers: a mixin that adds the penalty's gradient, on text at the embeddings."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.integrations.lazy import LazyCLIP

try:
    from safetensors.torch import load_file, save_file
    from transformers import PreTrainedModel, Trainer
except ModuleNotFoundError as error:
    raise ImportError(
        "cheaplip.integrations.huggingface needs transformers and accelerate: pip install 'cheaplip[huggingface]'"
    ) from error

__all__ = ["CLIPTrainer", "CLIPTrainerMixin", "Logits", "embedded"]

_FILE = "clip.safetensors"


class Logits(nn.Module):
    r"""A transformers model as a function of one floating-point tensor.

    On text this is the map from embeddings (B, T, hidden) to logits, since pairs move continuously and tokens cannot;
    there is no attention mask, so every position counts. For other inputs, such as pixels, it is the map from these to
    logits. The model runs outside accelerate's autocast: differences of bfloat16 outputs would be mostly rounding.

    Args:
        model: a model with ``logits`` among its outputs.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of embeddings or pixels."""
        name = "inputs_embeds" if self.model.main_input_name == "input_ids" else self.model.main_input_name
        call = getattr(self.model, "_original_forward", self.model)  # accelerate keeps the plain forward there
        logits: Tensor = call(**{name: x}, return_dict=True).logits
        return logits


@torch.no_grad()
def embedded(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    """Return a batch's inputs as :class:`Logits` takes them: embeddings of tokens, or the inputs themselves.

    Raises:
        ValueError: the batch lacks the model's main input.
    """
    name = model.main_input_name
    if name not in inputs:
        raise ValueError(f"expected {name!r} in the batch, got {', '.join(inputs)}: CLIP needs the inputs themselves")
    x: Tensor = inputs[name]
    if x.is_floating_point():
        return x
    embeddings: Tensor = model.get_input_embeddings()(x)
    return embeddings


class CLIPTrainerMixin:
    """CLIP for any ``Trainer``: ``class MyTrainer(CLIPTrainerMixin, Seq2SeqTrainer)``.

    The mixin adds the gradient of the penalty at the last batch, once gradients are accumulated and before they are
    clipped. (A callback could not: its hook comes after the clipping, and it sees no inputs.) So λ means the same with
    any ``gradient_accumulation_steps`` and in any precision. λ moves by the accuracy of the batches, or with
    ``mode="min"`` by their loss. The state is saved in the Trainer's checkpoints, as ``clip.safetensors`` (in several
    processes, only the pairs of the first).

    All batches must have the same shape: pad to ``max_length``.

    Args:
        clip: a :class:`LazyCLIP`, such as ``LazyCLIP(lam=0.01, target=0.95)``.
        *args, **kwargs: the Trainer's.

    Raises:
        TypeError: ``clip`` is no :class:`LazyCLIP`; or a class is defined in which the mixin comes after the Trainer.

    Example:
        >>> # trainer = CLIPTrainer(model, args, clip=LazyCLIP(lam=0.01, target=0.95), train_dataset=data)
        >>> # trainer.train()
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(CLIPTrainerMixin):
            raise TypeError(
                f"{cls.__name__}: expected CLIPTrainerMixin before the Trainer among the bases, to extend its hooks: "
                f"class {cls.__name__}(CLIPTrainerMixin, {cls.__bases__[0].__name__})"
            )

    def __init__(self, *args: Any, clip: LazyCLIP, **kwargs: Any) -> None:
        if not isinstance(clip, LazyCLIP):
            raise TypeError(
                f"clip: expected a LazyCLIP, got {type(clip).__name__}: "
                "cheaplip.integrations.lazy.LazyCLIP(lam=0.01, target=0.95) makes one"
            )
        super().__init__(*args, **kwargs)
        self.clip = clip
        self._inputs: dict[str, Any] | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does.

        Raises:
            RuntimeError: at the end, if the penalty did nothing.
        """
        result = super().train(*args, **kwargs)  # type: ignore[misc]
        if not self.clip.get_extra_state():
            raise RuntimeError(
                f"no training step passed CLIPTrainerMixin.training_step, so the penalty did nothing: call "
                f"super().training_step in {type(self).__name__}'s"
            )
        return result

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Compute the Trainer's loss, and keep what :meth:`training_step` needs: the inputs, and the metric for λ."""
        labels = inputs.get("labels")
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)  # type: ignore[misc]
        if model.training:
            self._inputs = inputs
            if self.clip.target is not None:
                self._metric = loss.detach() if self.clip.mode == "min" else _accuracy(outputs, labels)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Take the Trainer's step; then add the penalty's gradient and move λ, before the optimiser's step."""
        loss: Tensor = super().training_step(model, *args, **kwargs)  # type: ignore[misc]
        accelerator, plain = self.accelerator, self.model  # type: ignore[attr-defined]
        if accelerator.sync_gradients:
            if self._inputs is None:
                raise RuntimeError(
                    "a training step that did not pass CLIPTrainerMixin.compute_loss: call super().compute_loss in "
                    "yours"
                )
            self.clip.add_gradient_(
                Logits(plain),
                embedded(plain, self._inputs),
                reduce=lambda gradient: accelerator.reduce(gradient, "mean"),
                scale=1.0 if accelerator.scaler is None else accelerator.scaler.get_scale(),
            )
            if self.clip.target is not None:
                self.clip.observe(accelerator.reduce(self._metric, "mean"))
        return loss

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.args.should_save:  # type: ignore[attr-defined]
            save_file(self.clip.get_extra_state(), Path(output_dir) / _FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        path = Path(checkpoint) / _FILE
        if not path.is_file():
            raise ValueError(
                f"no {_FILE} in {checkpoint}: it was saved without CLIP; load its model, and train from there"
            )
        self.clip.set_extra_state(load_file(path))


class CLIPTrainer(CLIPTrainerMixin, Trainer):
    """transformers' ``Trainer`` with CLIP; see :class:`CLIPTrainerMixin`."""


def _accuracy(outputs: Any, labels: Tensor | None) -> Tensor:
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[1]
    if labels is None or labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"target: expected class labels of shape {tuple(logits.shape[:-1])} for an accuracy, "
            f"got {'none' if labels is None else tuple(labels.shape)}: say LazyCLIP(mode='min') with a loss as target"
        )
    accuracy: Tensor = (logits.argmax(dim=-1) == labels).float().mean()
    return accuracy
