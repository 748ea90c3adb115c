"""The one exception for what a user can put right."""


class UserError(ValueError):
    """A mistake in a file or a setting. Its text is one sentence that names it and the way out."""
