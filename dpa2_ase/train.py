"""``python -m dpa2_ase.train SETTINGS``, also under ``torchrun``: the command ``dpa2 train``."""

from .cli.train import train

if __name__ == "__main__":
    train()
