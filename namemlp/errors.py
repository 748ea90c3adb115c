"""Mistakes that a user can make."""


class UserError(ValueError):
    """A mistake in a file or a setting; its text is one sentence that names it and the way out."""


def shorten(text: str, max_length: int = 300) -> str:  # a text from elsewhere, on one line
    text = " ".join(text.split())
    return text if len(text) <= max_length else f"{text[:max_length]}…"


def check_range(low: float, high: float = float("inf"), rule: str = "at least {}", **settings: float | None) -> None:
    """Raise a UserError, which tells the rule, for the first of the settings that is given and not in [low, high)."""
    for name, value in settings.items():
        if value is not None and not low <= value < high:
            raise UserError(f"{name} is {value}: it must be {rule.format(low)}")
