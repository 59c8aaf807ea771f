"""transformers' Trainer with CLIP: text by its embeddings, pixels as they are; accumulation, bf16, clipping, resume."""

import copy
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from cheaplip import CLIP, PairSet
from cheaplip.integrations.lazy import LazyCLIP

pytest.importorskip("transformers", reason="needs the extra huggingface")
pytest.importorskip("accelerate", reason="needs the extra huggingface")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what transformers' own imports deprecate
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertLMHeadModel,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        Seq2SeqTrainer,
        T5Config,
        T5ForConditionalGeneration,
        Trainer,
        TrainingArguments,
        ViTConfig,
        ViTForImageClassification,
        set_seed,
    )

    from cheaplip.integrations.huggingface import CLIPTrainer, CLIPTrainerMixin, Logits, embedded

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TOKENS = torch.randint(2, 20, (64, 6), generator=torch.Generator().manual_seed(0))
TEXT = [{"input_ids": row, "labels": int(row[0] > 10)} for row in TOKENS]


def bert(kind=BertForSequenceClassification):
    set_seed(0)
    return kind(BertConfig(vocab_size=20, max_position_embeddings=8, **SIZES))


def trainer(model, clip, folder, data=TEXT, kind=CLIPTrainer, **options):
    options = {"max_steps": 8, "per_device_train_batch_size": 16, "learning_rate": 1e-2, **options}
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy=options.pop("save_strategy", "no"),
        logging_strategy="no",
        dataloader_pin_memory=False,
        **options,
    )
    if clip is None:
        return Trainer(model, arguments, train_dataset=data)
    return kind(model, arguments, clip=clip, train_dataset=data)


def largest(model):
    """After a climb of the same pairs in the embeddings."""
    x = embedded(model, {"input_ids": TOKENS})
    clip = CLIP(PairSet(x, size=16, renew=0))
    for _ in range(10):
        clip(Logits(model))
    return float(clip.largest)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
        {"bf16": True},
        {"max_grad_norm": 0.3},
    ],
    ids=["plain", "accumulation", "bf16", "clipping"],
)
def test_training_lowers_the_constant_and_moves_pairs_and_lam(options, tmp_path):
    plain, stable, clip = bert(), bert(), LazyCLIP(lam=0.3, target=0.4, rate=0.05, size=8)
    trainer(plain, None, tmp_path, **options).train()
    trainer(stable, clip, tmp_path, **options).train()
    assert largest(stable) < 0.8 * largest(plain)
    assert clip.clip.lam != 0.3
    assert clip.clip.pairs.age.max() == 8  # once for each optimiser step
    assert clip.clip.pairs.u.shape == (8, 6, 16)


def test_one_step_adds_exactly_the_penaltys_gradient(tmp_path):
    model = bert()
    before, clip = copy.deepcopy(model), LazyCLIP(lam=0.3, size=8)
    options = {
        "optim": "sgd",
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
    }
    training = trainer(model, clip, tmp_path, **options)
    seen = []
    training._prepare_inputs, prepare = (
        lambda inputs: seen.append(prepare(inputs)) or seen[-1],
        training._prepare_inputs,
    )
    training.train()
    loss = before(**seen[0]).loss + LazyCLIP(lam=0.3, size=8)(Logits(before), embedded(before, seen[0]))
    loss.backward()
    for parameter, reached in zip(before.parameters(), model.parameters(), strict=True):
        moved = 0 if parameter.grad is None else 0.1 * parameter.grad
        torch.testing.assert_close(parameter - moved, reached)


def test_clipping_acts_on_the_sum(tmp_path):
    model = bert()
    before = copy.deepcopy(model)
    options = {"optim": "sgd", "max_steps": 1, "max_grad_norm": 0.01, "learning_rate": 1.0}
    trainer(model, LazyCLIP(lam=1e3, size=8), tmp_path, **options).train()
    moved = sum((a - b).square().sum() for a, b in zip(before.parameters(), model.parameters(), strict=True)).sqrt()
    assert moved <= 0.01 * 1.001


def test_resumed_equals_uninterrupted(tmp_path):
    def training(steps=6):
        return trainer(
            bert(),
            LazyCLIP(lam=0.3, target=0.6, size=8),
            tmp_path / "runs",
            max_steps=steps,
            save_steps=3,
            save_strategy="steps",
            lr_scheduler_type="constant",
        )

    whole = training()
    whole.train()
    resumed = training()
    resumed.train(resume_from_checkpoint=str(tmp_path / "runs" / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    for name, value in whole.clip.get_extra_state().items():
        assert torch.equal(value, resumed.clip.get_extra_state()[name]), name


def test_pixels_are_inputs_themselves(tmp_path):
    set_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=4, patch_size=2, num_channels=1, **SIZES))
    pixels = torch.rand(32, 1, 4, 4)
    data = [{"pixel_values": image, "labels": int(image.sum() > 8)} for image in pixels]
    clip = LazyCLIP(lam=0.1, target=0.9, size=4)
    trainer(model, clip, tmp_path, data, max_steps=2).train()
    assert clip.clip.pairs.u.shape == (4, 1, 4, 4)
    assert clip.clip.largest > 0


def test_the_target_can_be_a_loss(tmp_path):
    clip = LazyCLIP(lam=0.1, target=0.5, mode="min", size=4)
    trainer(bert(), clip, tmp_path, max_steps=2).train()
    assert clip.clip.lam < 0.1


def test_a_model_in_training_stays_in_its_modes(tmp_path):
    model = bert()
    trainer(model, LazyCLIP(size=4), tmp_path, max_steps=1).train()
    assert all(module.training for module in model.modules())


def test_other_labels_name_the_remedy(tmp_path):
    data = [{"input_ids": row, "labels": row} for row in TOKENS]
    model, clip = bert(BertForMaskedLM), LazyCLIP(target=0.9)
    trainer(model, clip, tmp_path, data, max_steps=1).train()  # a label for each token is one for each output
    numbers = [{"input_ids": row, "labels": float(row[0])} for row in TOKENS]
    model = bert()
    model.config.num_labels, model.num_labels = 1, 1
    model.classifier = torch.nn.Linear(16, 1)
    message = "target: expected class labels of shape (16,) for an accuracy, got (16,): say LazyCLIP(mode='min') with a"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        trainer(model, LazyCLIP(target=0.9), tmp_path, numbers, max_steps=1).train()


def test_batches_of_several_lengths_are_refused(tmp_path):
    data = [{"input_ids": row[: 6 if i < 16 else 5], "labels": 0} for i, row in enumerate(TOKENS)]
    training = trainer(bert(), LazyCLIP(), tmp_path, data, max_steps=4)
    training._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)
    with pytest.raises(
        ValueError, match=r"^expected inputs of shape \(6, 16\), as in the first batch, got \(5, 16\): pad"
    ):
        training.train()


def test_a_checkpoint_without_clip_is_refused(tmp_path):
    trainer(bert(), None, tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match=r"it was saved without CLIP; load its model, and train from there$"):
        trainer(bert(), LazyCLIP(), tmp_path, max_steps=2).train(resume_from_checkpoint=True)


def test_the_mixin_after_the_trainer_is_refused():
    message = "Late: expected CLIPTrainerMixin before the Trainer among the bases, to extend its hooks: class Late("
    with pytest.raises(TypeError, match=f"^{re.escape(message + 'CLIPTrainerMixin, Seq2SeqTrainer)')}$"):

        class Late(Seq2SeqTrainer, CLIPTrainerMixin):
            pass


def test_a_loss_of_ones_own_must_call_the_trainers(tmp_path):
    class Own(CLIPTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            return model(**inputs).loss

    training = trainer(bert(), LazyCLIP(), tmp_path, max_steps=1, kind=Own)
    with pytest.raises(RuntimeError, match=r"^a training step that did not pass CLIPTrainerMixin\.compute_loss: call"):
        training.train()


def test_a_step_of_ones_own_must_call_the_trainers(tmp_path):
    class Own(CLIPTrainer):
        def training_step(self, model, *args, **kwargs):
            return Trainer.training_step(self, model, *args, **kwargs)

    message = "no training step passed CLIPTrainerMixin.training_step, so the penalty did nothing: call super().tr"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}"):
        trainer(bert(), LazyCLIP(), tmp_path, max_steps=1, kind=Own).train()


def test_a_frozen_model_is_refused(tmp_path):
    class Frozen(CLIPTrainer):
        def compute_loss(self, model, *args, **kwargs):
            loss = super().compute_loss(model, *args, **kwargs)
            model.requires_grad_(False)
            return loss

    with pytest.raises(RuntimeError, match=r"^no parameter of the model requires a gradient, so the penalty does noth"):
        trainer(bert(), LazyCLIP(), tmp_path, max_steps=1, kind=Frozen).train()


def test_before_training_there_are_no_pairs(tmp_path):
    with pytest.raises(RuntimeError, match=r"^no pairs yet: they are made from the first training batch; train for a"):
        trainer(bert(), LazyCLIP(), tmp_path).clip.clip  # noqa: B018


def test_an_immovable_lam_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^lam = 0 never moves under the multiplicative rule: start from lam > 0"):
        trainer(bert(), LazyCLIP(lam=0.0, target=0.9), tmp_path)


def test_logits_without_a_gradient_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Logits, "forward", torch.no_grad()(Logits.forward))
    with pytest.raises(ValueError, match=r"^the model's output does not depend differentiably on its input, so pairs"):
        trainer(bert(), LazyCLIP(), tmp_path, max_steps=1).train()


def test_something_else_than_a_lazy_clip_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"^clip: expected a LazyCLIP, got float: cheaplip\.integrations\.lazy"):
        trainer(bert(), 0.1, tmp_path)


# Outputs and labels of every form


def rows(**columns):
    return [{name: value[i] for name, value in columns.items()} for i in range(16)]


IDS = TOKENS[:16]
PADDED = torch.where(torch.arange(6) < 4, IDS % 2, -100)
GPT2 = {"vocab_size": 20, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
T5 = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}


def gpt2():
    set_seed(0)
    return GPT2LMHeadModel(GPT2Config(**GPT2, **NO_DROPOUT, bos_token_id=0, eos_token_id=0))


def t5():
    set_seed(0)
    return T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0))


def decoder():
    set_seed(0)
    return BertLMHeadModel(BertConfig(vocab_size=20, max_position_embeddings=8, is_decoder=True, **SIZES))


def yes_or_no():
    set_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=3, **SIZES))


def of_classes(logits, labels):
    counted = labels != -100
    return (logits.argmax(-1) == labels)[counted].float().mean()


def next_token(output, batch):
    return of_classes(output.logits[:, :-1], batch["labels"][:, 1:])


def same_token(output, batch):
    return of_classes(output.logits, batch["labels"])


def start_and_end(output, batch):
    starts, ends = (output[f"{side}_logits"].argmax(-1) == batch[f"{side}_positions"] for side in ("start", "end"))
    return (torch.cat([starts[:15], ends]).float()).mean()  # the last start is outside


ANSWERS = {"start_positions": torch.tensor([1] * 15 + [9]), "end_positions": torch.tensor([2, 3] * 8)}
SEEN = {
    "classes": (bert, {"labels": IDS[:, 0] % 2}, same_token),
    "tokens": (lambda: bert(BertForTokenClassification), {"labels": IDS % 2}, same_token),
    "padded tokens": (lambda: bert(BertForTokenClassification), {"labels": PADDED}, same_token),
    "masked tokens": (lambda: bert(BertForMaskedLM), {"labels": torch.where(IDS > 9, IDS, -100)}, same_token),
    "next tokens": (gpt2, {"labels": IDS}, next_token),
    "next tokens, padded": (gpt2, {"labels": torch.where(torch.arange(6) < 4, IDS, -100)}, next_token),
    "next tokens of a decoder": (decoder, {"labels": IDS}, next_token),
    "encoder and decoder": (t5, {"labels": PADDED}, same_token),
    "yes or no": (
        yes_or_no,
        {"labels": (IDS[:, :3] > 9).float()},
        lambda output, batch: ((output.logits > 0) == (batch["labels"] > 0.5)).float().mean(),
    ),
    "start and end": (lambda: bert(BertForQuestionAnswering), ANSWERS, start_and_end),
}


@pytest.mark.parametrize("case", SEEN)
@pytest.mark.filterwarnings("ignore")
def test_the_controller_sees_the_accuracy(case, tmp_path):
    make, labels, accuracy = SEEN[case]
    model, clip = make(), LazyCLIP(lam=1e-4, target=0.5, smoothing=0.0, size=4)
    with torch.no_grad():
        expected = accuracy(make().train()(input_ids=IDS, **labels), labels)
    options = {"max_steps": 1, "learning_rate": 1e-12, "seed": 3}
    trainer(model, clip, tmp_path, rows(input_ids=IDS, **labels), **options).train()
    assert float(clip.controller.average) == pytest.approx(float(expected), abs=1e-6)
    assert clip.clip.pairs.u.shape == (4, 6, 16)
    assert clip.clip.largest > 0


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_all_parts_of_an_accumulated_batch_count(mode, accumulate, tmp_path):
    seen = []
    for part in (16, 16 // accumulate):
        clip = LazyCLIP(lam=1e-4, target=0.5, mode=mode, smoothing=0.0, size=4)
        data = rows(input_ids=IDS, labels=torch.where(torch.arange(6) < IDS[:, :1] % 5, IDS, -100))
        options = {"per_device_train_batch_size": part, "gradient_accumulation_steps": 16 // part}
        trainer(gpt2(), clip, tmp_path, data, max_steps=1, learning_rate=1e-12, **options).train()
        seen.append(float(clip.controller.average))
    assert seen[0] == pytest.approx(seen[1], rel=1e-4)


def test_lam_is_steered_to_a_constant(tmp_path):
    clip = LazyCLIP(lam=0.1, target=1e-6, mode="lipschitz", size=4, rate=0.1)
    trainer(bert(), clip, tmp_path, max_steps=3).train()
    assert clip.clip.lam > 0.1


class Own(BertForMaskedLM):
    """Its name says nothing of the tokens that its outputs are for."""


@pytest.mark.parametrize("given", [True, False], ids=["metric", "no metric"])
def test_a_model_of_unknown_kind_asks_for_a_metric(given, tmp_path):
    data, clip = rows(input_ids=IDS, labels=IDS), LazyCLIP(target=0.5, smoothing=0.0, size=4)
    training = trainer(bert(Own), clip, tmp_path, data, max_steps=1)
    if given:
        training.metric = lambda outputs, batch: (outputs["logits"].argmax(-1) == batch["labels"]).float().mean()
        training.train()
        assert 0 <= float(clip.controller.average) <= 1
        return
    with pytest.raises(ValueError, match=r"^target: expected a model whose name says .*, got Own: say LazyCLIP\(mode="):
        training.train()


def test_a_metric_in_percent_is_refused(tmp_path):
    training = trainer(bert(), LazyCLIP(target=0.5), tmp_path, max_steps=1)
    training.metric = lambda outputs, batch: 55.0
    with pytest.raises(ValueError, match=r"^metric: expected an accuracy in \[0, 1\], got 55: 97 % is 0\.97"):
        training.train()


def test_a_model_without_logits_has_its_last_hidden_state():
    model = bert(BertModel)
    x = embedded(model, {"input_ids": IDS})
    torch.testing.assert_close(Logits(model)(x), model(inputs_embeds=x).last_hidden_state)


def far_from_zero(outputs, labels, num_items_in_batch=None):
    return outputs.last_hidden_state[:, 0].square().mean()


@pytest.mark.parametrize("target", [None, 0.5], ids=["fixed", "steered"])
def test_a_model_without_logits_is_trained(target, tmp_path):
    clip = LazyCLIP(lam=0.1, target=target, mode="min", size=4, smoothing=0.0)
    training = trainer(bert(BertModel), clip, tmp_path, rows(input_ids=IDS, labels=IDS[:, 0]), max_steps=2)
    training.compute_loss_func = far_from_zero
    training.train()
    assert clip.clip.pairs.u.shape == (4, 6, 16)
    assert clip.clip.largest > 0
    assert (float(clip.clip.lam) != pytest.approx(0.1, abs=1e-7)) == (target is not None)


def test_an_accuracy_of_a_model_without_logits_asks_for_a_metric(tmp_path):
    training = trainer(bert(BertModel), LazyCLIP(target=0.5), tmp_path, rows(input_ids=IDS, labels=IDS[:, 0]))
    training.compute_loss_func = far_from_zero
    with pytest.raises(ValueError, match=r"^target: no accuracy is known for outputs last_hidden_state.*pass metric="):
        training.train()


def test_a_model_with_neither_names_what_it_has():
    model = bert()
    model.forward = lambda **_: {"pooler_output": torch.zeros(1)}
    with pytest.raises(
        TypeError, match=r"^expected a model with logits or last_hidden_state among its outputs, got po"
    ):
        Logits(model)(embedded(model, {"input_ids": IDS}))


def test_the_logits_of_start_and_end_are_stacked():
    model = bert(BertForQuestionAnswering)
    x = embedded(model, {"input_ids": IDS})
    outputs = model(inputs_embeds=x)
    torch.testing.assert_close(Logits(model)(x), torch.stack([outputs.start_logits, outputs.end_logits], dim=-1))


def test_an_encoder_and_decoder_has_the_state_of_its_encoder():
    model = t5()
    x = embedded(model, {"input_ids": IDS})
    torch.testing.assert_close(Logits(model)(x), model.get_encoder()(input_ids=IDS).last_hidden_state)


TWO_PROCESSES = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_huggingface import LazyCLIP, bert, trainer

torch.set_num_threads(1)
model, clip = bert(), LazyCLIP(lam=0.3, target=0.4, rate=0.05, size=8)
options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "bf16": True, "ddp_backend": "gloo"}
trainer(model, clip, sys.argv[2], **options).train()

def everywhere(values):
    gathered = [torch.empty_like(values) for _ in range(2)]
    dist.all_gather(gathered, values)
    return gathered

lam, pairs = clip.clip.lam, clip.clip.pairs
one, other = everywhere(torch.cat([p.detach().flatten() for p in model.parameters()] + [lam[None]]))
own = everywhere(pairs.u)
said = f"equal {torch.equal(one, other)}, lam moved {bool(lam != 0.3)}"
print(f"{said}, pairs of its own {not torch.equal(*own)}, moved {bool(pairs.age.max() > 0)}", flush=True)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_agree_on_weights_and_lam(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(script), str(Path(__file__).parent), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal True, lam moved True, pairs of its own True, moved True") == 2, done.stdout
