"""`namemlp export`: a model to hand over, without Lightning."""

from pathlib import Path
from typing import Literal

from namemlp.errors import UserError
from namemlp.share import export_html, load_list, open_model


def export(
    ckpt_path: str | None = None,
    to: Literal["html"] = "html",
    output: str | None = None,
    path: str | None = None,
    default_root_dir: str | None = None,
) -> None:
    """Write a model to a file that needs neither this program nor an installation.

    Args:
        ckpt_path: the model: a path, or last or best: that checkpoint of the newest run
        to: html: one page that draws names, for any browser
        output: file to write; null: names.html
    """
    model, file, checkpoint = open_model(ckpt_path, default_root_dir, "export")
    try:
        splits = load_list(checkpoint, file, path)[1]
    except UserError:  # the list is not needed; with it the page shows losses
        if path is not None:
            raise
        splits = None
    target = Path(output or "names.html")
    text = export_html(model, checkpoint, splits)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): give another --output") from error
    print(f"{target} ({len(text) / 1e3:,.0f} kB): open it in a browser")
