"""`namemlp export`: a model to hand over, without Lightning."""

from typing import Literal

from namemlp import share
from namemlp.errors import UserError


def export(
    ckpt_path: str | None = None,
    to: Literal["html", "folder", "onnx"] = "html",
    output: str | None = None,
    with_known_names: bool = False,
    path: str | None = None,
    default_root_dir: str | None = None,
) -> None:
    """Write a model in a form that does not need this program.

    Args:
        ckpt_path: the model: a path, or last or best: that checkpoint of the newest run
        to: html: a page that draws names in any browser; folder: safetensors, config.json, a model card and a script;
            onnx: a file for ONNX Runtime
        output: file or folder to write; null: names.html, names, names.onnx
        with_known_names: have the page hold the hashes of the list's names, so that it can leave these out
    """
    model, file = share.open_model(ckpt_path, default_root_dir, "export")
    try:
        splits = share.load_list(model, file, path)[1]
    except UserError:  # the list is not needed; with it page and card show losses
        if path is not None:
            raise
        splits = None
    print(share.export(model, to, output, splits, with_known_names))
