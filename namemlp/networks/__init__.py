"""The networks of the lectures: each an `nn.Module` from (B, T) ids to (B, V) logits, in a file of its own."""

from namemlp import lazy_exports

_MODULES = {"linear": "Linear", "deep": "Deep", "wavenet": "WaveNet", "rnn": "RNN GRU", "bow": "BagOfWords"}
_MODULES |= {"transformer": "Transformer", "batch_norm": "BatchNorm", "settings": "complete_network split_network"}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
