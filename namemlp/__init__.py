"""Character-level name models with PyTorch Lightning."""

from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError
from namemlp.module import NameModule
from namemlp.network import NameMLP
from namemlp.vocabulary import Vocabulary

__all__ = ["NameMLP", "NameModule", "NamesDataModule", "UserError", "Vocabulary"]
