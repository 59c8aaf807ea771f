"""CLIP with Lightning's Trainer: one callback, and no change to the module that is trained.

python examples/with_lightning.py     (needs pip install 'cheaplip[lightning]')
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import cheaplip
from cheaplip.integrations.lightning import CLIPCallback
from cheaplip.lipschitz import largest_quotient


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        output = self(inputs)
        self.log("train_acc", (output.argmax(1) == targets).float().mean())
        return nn.functional.cross_entropy(output, targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images / 16).float(), torch.from_numpy(labels)
    loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=64, shuffle=True)
    domain = cheaplip.Box(0.0, 1.0)

    model, callback = Classifier(), CLIPCallback(lam=0.1, target=0.98, domain=domain)
    trainer = Trainer(
        max_epochs=10,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, loader)

    accuracy = (model(x[1400:]).argmax(1) == y[1400:]).float().mean()
    quotient = largest_quotient(model.net, x[:1400], domain=domain, size=64, steps=50).value
    lam = callback.penalty.clip.lam
    print(f"test accuracy {accuracy:.3f}, largest quotient found {quotient:.2f}, λ {lam:.3g}")


if __name__ == "__main__":
    main()
