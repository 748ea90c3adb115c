"""Write checkpoints so that none is ever half written, and read them safely."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from namemlp.runs.folders import fsync_path, write_error
from namemlp.runs.reading import read_checkpoint


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads checkpoints by `read_checkpoint`, and writes each so that a kill leaves the previous one intact."""

    def __init__(self) -> None:
        self.checkpoint: dict[str, Any] | None = None  # already read; the next that is asked for

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        checkpoint, self.checkpoint = self.checkpoint, None
        return checkpoint or read_checkpoint(Path(path))

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        partial = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise write_error(path, error) from error
        fsync_path(path.parent)
