"""The checkpoint that comes with the package, out of a run on the bundled list: what `sample` needs, and no more.

    python benchmarks/make_model.py CHECKPOINT [--output namemlp/names.ckpt]

The run, 40 s on 2 cores:

    python -m namemlp fit --model.init scaled --model.context_length 6 --model.embedding_dim 10 \\
        --model.hidden_size 200 --optimizer AdamW --optimizer.lr 0.001 --lr_scheduler OneCycleLR \\
        --lr_scheduler.max_lr 0.008 --lr_scheduler.total_steps 30000 --data.batch_size 512 --trainer.max_steps 30000
"""

from pathlib import Path

import torch
from harness import ROOT, make_parser

KEYS = ("state_dict", "hyper_parameters", "datamodule_hyper_parameters", "NamesDataModule", "training_names")


def main() -> None:
    parser = make_parser(__doc__, output=str(ROOT / "namemlp" / "names.ckpt"))
    parser.add_argument("checkpoint")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, weights_only=True)
    kept = {name: checkpoint[name] for name in (*KEYS, "global_step", "pytorch-lightning_version")}
    torch.save(kept, args.output)
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
