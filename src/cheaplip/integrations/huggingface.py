"""CLIP for the ``Trainer`` of transformers: a mixin that adds the penalty's gradient, on text at the embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.integrations.lazy import LazyCLIP
from cheaplip.integrations.metrics import IGNORED, count_right, count_right_of_threshold, share

try:
    from safetensors.torch import load_file, save_file
    from transformers import PreTrainedModel, Trainer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ModuleNotFoundError as error:
    raise ImportError(
        "cheaplip.integrations.huggingface needs transformers and accelerate: pip install 'cheaplip[huggingface]'"
    ) from error

__all__ = ["CLIPTrainer", "CLIPTrainerMixin", "Logits", "embedded"]

_FILE = "clip.safetensors"
_REMEDY = (
    "say LazyCLIP(mode='min') with a loss as target, or pass metric=, a function of the model's outputs and the batch "
    "to a fraction in [0, 1]"
)

Metric = Callable[[Any, dict[str, Any]], float | Tensor]
"""From a model's outputs and the batch to a number."""


class Logits(nn.Module):
    r"""A transformers model as a function of one floating-point tensor.

    On text this is the map from embeddings (B, T, hidden) to logits, since pairs move continuously and tokens cannot;
    there is no attention mask, so every position counts. For other inputs, such as pixels, it is the map from these to
    logits. Of a model for question answering, the logits of start and end are stacked, (B, T, 2). Of an encoder-decoder
    it is the map to the last hidden state of the encoder, and of a model without logits the one to its last hidden
    state. The model runs outside accelerate's autocast: differences of bfloat16 outputs would be mostly rounding.

    Args:
        model: a model of transformers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of embeddings or pixels."""
        name = "inputs_embeds" if self.model.main_input_name == "input_ids" else self.model.main_input_name
        if self.model.config.is_encoder_decoder:
            return _main_output(self.model.get_encoder()(**{name: x}, return_dict=True))
        call = getattr(self.model, "_original_forward", self.model)  # accelerate keeps the plain forward there
        return _main_output(call(**{name: x}, return_dict=True))


def _main_output(outputs: Any) -> Tensor:
    """Return what is regularised: logits, or else the last hidden state."""
    logits, state = outputs.get("logits"), outputs.get("last_hidden_state")
    if isinstance(logits, Tensor):
        return logits
    if "start_logits" in outputs and "end_logits" in outputs:
        return torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)
    if isinstance(state, Tensor):
        return state
    raise TypeError(
        f"expected a model with logits or last_hidden_state among its outputs, got {', '.join(outputs)}: train it with "
        "cheaplip.integrations.lazy.LazyCLIP in a loop of your own"
    )


@torch.no_grad()
def embedded(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    """Return a batch's inputs as :class:`Logits` takes them: embeddings of tokens, or the inputs themselves.

    Raises:
        ValueError: the batch lacks the model's main input.
    """
    name = model.main_input_name
    if name not in inputs and isinstance(inputs.get("inputs_embeds"), Tensor):
        name = "inputs_embeds"
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
    any ``gradient_accumulation_steps`` and in any precision. λ moves by the accuracy of the batches, with
    ``mode="min"`` by their loss, or with ``mode="lipschitz"`` by the largest quotient.

    The accuracy is that of classes, of yes-or-no labels (``problem_type="multi_label_classification"``), of tokens, of
    next tokens in causal language models, or of start and end in question answering. Labels of -100 are left out. For
    other outputs give ``metric``. The state is saved in the Trainer's checkpoints, as ``clip.safetensors`` (in several
    processes, only the pairs of the first).

    All batches must have the same shape: pad to ``max_length``.

    Args:
        clip: a :class:`LazyCLIP`, such as ``LazyCLIP(lam=0.01, target=0.95)``.
        metric: what the target is for: a function of the model's outputs and the batch, a dictionary, to a fraction in
            [0, 1], or to a positive number with ``mode="min"``. None: the accuracy, or the loss.
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

    def __init__(self, *args: Any, clip: LazyCLIP, metric: Metric | None = None, **kwargs: Any) -> None:
        if not isinstance(clip, LazyCLIP):
            raise TypeError(
                f"clip: expected a LazyCLIP, got {type(clip).__name__}: "
                "cheaplip.integrations.lazy.LazyCLIP(lam=0.01, target=0.95) makes one"
            )
        super().__init__(*args, **kwargs)
        self.clip = clip
        self.metric = metric
        self._inputs: dict[str, Any] | None = None
        self._measured: list[Tensor] = []  # of the micro-batches since λ moved last
        self._wrapped: Logits | None = None

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
        batch = dict(inputs)  # label smoothing takes the labels away
        if model.training and self.clip.due:  # the pairs start at the inputs, into which a model may write
            batch = {name: x.clone() if isinstance(x, Tensor) else x for name, x in inputs.items()}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)  # type: ignore[misc]
        if model.training:
            self._inputs = batch
            if self.clip.wants_metric:
                self._measured.append(self._measure(loss, outputs, batch, kwargs.get("num_items_in_batch")))
        return (loss, outputs) if return_outputs else loss

    def _measure(self, loss: Tensor, outputs: Any, batch: dict[str, Any], items: Tensor | int | None) -> Tensor:
        """Measure a micro-batch: a sum and what it is to be divided by, (2,)."""
        if self.metric is not None:
            value = torch.as_tensor(self.metric(outputs, batch), dtype=torch.float32, device=loss.device)
            return torch.stack([value, torch.ones_like(value)])
        if self.clip.mode == "max":
            return _count_right(self.model, outputs, batch)  # type: ignore[attr-defined]
        divided = self.model_accepts_loss_kwargs or self.compute_loss_func  # type: ignore[attr-defined]
        whole = items is not None and divided  # then the losses of the micro-batches add up to that of the batch
        part = 1 / self.current_gradient_accumulation_steps if whole else 1  # type: ignore[attr-defined]
        return torch.stack([loss.detach().float(), torch.full_like(loss.detach(), part, dtype=torch.float32)])

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
            if self._wrapped is None or self._wrapped.model is not plain:
                self._wrapped = Logits(plain)
            self.clip.add_gradient_(
                self._wrapped,
                embedded(plain, self._inputs),
                reduce=lambda gradient: accelerator.reduce(gradient, "mean"),
                scale=1.0 if accelerator.scaler is None else accelerator.scaler.get_scale(),
            )
            if self.clip.wants_metric:
                total = accelerator.reduce(torch.stack(self._measured).sum(dim=0), "sum")
                self.clip.observe(share(total))
            elif self.clip.target is not None:
                self.clip.observe()
            self._measured.clear()
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


def _count_right(model: PreTrainedModel, outputs: Any, batch: dict[str, Any]) -> Tensor:
    """Count the right labels and the labels of a batch, (2,).

    Raises:
        ValueError: it is not known which labels the outputs are for.
    """
    starts, ends = batch.get("start_positions"), batch.get("end_positions")
    if isinstance(starts, Tensor) and isinstance(ends, Tensor) and "start_logits" in outputs:
        both = torch.stack([outputs["start_logits"], outputs["end_logits"]])
        positions = torch.stack([starts.reshape(-1), ends.reshape(-1)])
        outside = (positions < 0) | (positions >= both.shape[-1])  # the loss leaves these out, too
        return count_right(both, positions.masked_fill(outside, IGNORED), last=True)
    labels = batch.get("labels")
    logits = outputs.get("logits") if isinstance(outputs, dict) else outputs[1]
    if not isinstance(logits, Tensor):
        got = f"outputs {', '.join(outputs)}" if isinstance(outputs, dict) else f"outputs {type(logits).__name__}"
        raise ValueError(f"target: no accuracy is known for {got}: {_REMEDY}")
    if labels is None or (labels.is_floating_point() and logits.shape[-1] == 1):
        shape = "none" if labels is None else str(tuple(labels.shape))
        raise ValueError(
            f"target: expected class labels of shape {tuple(logits.shape[:-1])} for an accuracy, got {shape}: {_REMEDY}"
        )
    if getattr(model.config, "problem_type", None) == "multi_label_classification":
        return count_right_of_threshold(logits, labels, threshold=0.0)
    if logits.dim() == 3 and labels.shape == logits.shape[:2] and _predicts_next(model, logits):
        return count_right(logits[:, :-1], labels[:, 1:], last=True)
    return count_right(logits, labels, last=True)


def _predicts_next(model: PreTrainedModel, logits: Tensor) -> bool:
    """Whether the loss compares the output for a token with the label of the next one.

    Raises:
        ValueError: the class is not one of transformers', so it is not known.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        return False
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or name.endswith(
        ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    ):
        return True
    if name.endswith(("ForMaskedLM", "ForTokenClassification", "ForPreTraining")) or (
        logits.shape[-1] != getattr(model.config, "vocab_size", None)
    ):
        return False
    raise ValueError(
        f"target: expected a model whose name says whether its outputs are for the same or for the next token, such as "
        f"…ForMaskedLM or …ForCausalLM, got {name}: {_REMEDY}"
    )
