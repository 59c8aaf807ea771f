"""Shared set-up: one thread for tiny problems, no colours."""

import os

import torch

os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("COLUMNS", "200")
torch.set_num_threads(1)
