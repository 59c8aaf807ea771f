"""CLIP with transformers' Trainer: images as sequences of tokens, stable in their embeddings.

python examples/with_transformers.py     (needs pip install 'cheaplip[huggingface]')
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments, set_seed

from cheaplip.bracket import largest_quotient
from cheaplip.integrations.huggingface import CLIPTrainer, Logits, embedded
from cheaplip.integrations.lazy import LazyCLIP


def main() -> None:
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    tokens = torch.from_numpy(images).long().reshape(-1, 8, 8)[:, ::2].reshape(-1, 32)  # each second row, 17 levels
    data = [{"input_ids": row, "labels": int(label)} for row, label in zip(tokens, labels, strict=True)]
    config = BertConfig(
        vocab_size=17,
        num_labels=10,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config)

    clip = LazyCLIP(lam=1e-3, target=0.8, size=16)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=6,
            per_device_train_batch_size=64,
            learning_rate=2e-3,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        CLIPTrainer(model, arguments, clip=clip, train_dataset=data[:1400]).train()

    model.eval()
    with torch.no_grad():
        accuracy = (model(tokens[1400:]).logits.argmax(1) == torch.from_numpy(labels[1400:])).float().mean()
    embeddings = embedded(model, {"input_ids": tokens[:256]})
    quotient = largest_quotient(Logits(model), embeddings, size=32, steps=20).value
    print(f"test accuracy {accuracy:.3f}, largest quotient found {quotient:.2f}, λ {clip.clip.lam:.3g}")


if __name__ == "__main__":
    main()
