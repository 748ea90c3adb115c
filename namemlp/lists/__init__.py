"""What is known of lists of names without a network: counts of n-grams, what is in a list, constraints."""

from namemlp import lazy_exports

_MODULES = {"callback": "CountingBaseline", "constraints": "Constraints", "describe": "describe_names"}
_MODULES |= {"ngrams": "CONSTANTS NgramNetwork best_ngram evaluate_counting"}
__getattr__, __all__ = lazy_exports(__name__, _MODULES)
