"""A trained model in a form that does not need this package."""

from pathlib import Path
from typing import Literal

from namemlp.corpus import Splits
from namemlp.errors import UserError
from namemlp.share.folder import export_folder
from namemlp.share.html import export_html
from namemlp.share.model import Model
from namemlp.share.onnx import export_onnx

OUTPUTS = {"html": "names.html", "folder": "names", "onnx": "names.onnx"}


def export(
    model: Model,
    to: Literal["html", "folder", "onnx"] = "html",
    output: str | Path | None = None,
    splits: Splits | None = None,
    with_known_names: bool = False,
) -> Path:
    """Write a model as a page, a folder or an ONNX file, and return its path.

    Args:
        model: of `namemlp.load`
        to: html, folder or onnx
        output: null: names.html, names or names.onnx
        splits: of the model's list, `NamesDataModule.splits`, for the losses that page and model card show
        with_known_names: have the page hold the hashes of the list's names, so that it can leave these out

    Raises: UserError: the network is not mlp, a package is missing, or nothing can be written there.
    """
    if to not in OUTPUTS:
        raise UserError(f"to is {to!r}: it must be html, folder or onnx")
    target = Path(output or OUTPUTS[to])
    try:
        if to == "html":
            target.write_text(export_html(model, splits, with_known_names), encoding="utf-8")
        elif to == "folder":
            export_folder(model, splits, target)
        else:
            export_onnx(model, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): give another --output") from error
    return target
