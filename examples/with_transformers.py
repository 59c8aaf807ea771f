"""CLIP with transformers' Trainer, for a vision transformer.

For text, use a model such as BERT instead; the pairs are then embeddings.

python examples/with_transformers.py     (needs pip install 'cheaplip[huggingface]')
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

import cheaplip
from cheaplip.integrations.huggingface import CLIPTrainer, Logits
from cheaplip.integrations.lazy import LazyCLIP
from cheaplip.lipschitz import largest_quotient


def main() -> None:
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images / 16).float().reshape(-1, 1, 8, 8), torch.from_numpy(labels)
    data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(x, labels, strict=True)]
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
    )
    model = ViTForImageClassification(config)
    domain = cheaplip.Box(0.0, 1.0)

    clip = LazyCLIP(lam=0.01, target=0.95, domain=domain)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=8,
            per_device_train_batch_size=64,
            learning_rate=5e-3,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        CLIPTrainer(model, arguments, clip=clip, train_dataset=data[:1400]).train()

    logits = Logits(model.eval())
    accuracy = (logits(x[1400:]).argmax(1) == y[1400:]).float().mean()
    quotient = largest_quotient(logits, x[:1400], domain=domain, size=32, steps=30).value
    print(f"test accuracy {accuracy:.3f}, largest quotient found {quotient:.2f}, λ {clip.clip.lam:.3g}")


if __name__ == "__main__":
    main()
