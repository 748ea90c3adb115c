"""How the program tells its user of a mistake."""

import sys
from typing import NoReturn

# The way out where training has diverged, or where it cannot write.
SMALLER = "give a smaller optimizer.lr"
MAKE_ROOM = "make room there or give another trainer.default_root_dir"


class UserError(ValueError):
    """A mistake in a file or a setting. Its text is one sentence that names it and the way out."""


class Diverged(UserError):
    """A loss that is not finite."""


def shortened(text: str, most: int = 300) -> str:
    """A text from elsewhere, cut to what a message can hold."""
    return text if len(text) <= most else f"{text[:most]}…"


def fail(message: str) -> NoReturn:
    """End the program over such a mistake: one line on stderr, exit code 2."""
    print(f"namemlp: error: {message}", file=sys.stderr)
    sys.exit(2)
