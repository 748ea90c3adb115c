"""From a list of names to new ones, in Python: `python examples/fit_and_sample.py` (some seconds; writes here)."""

import logging
import warnings

from lightning import Trainer

from namemlp import FusedStrategy, NameModule, NamesDataModule
from namemlp.viz import StepProgressBar

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # without tips for other products
warnings.filterwarnings("ignore", module="lightning.pytorch")  # without warnings that do not apply here

# The bundled list; for your own, a path or URL: NamesDataModule("names.txt").
data = NamesDataModule(context_length=4)
sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
model = NameModule(data.vocabulary.characters, context_length=4, embedding_dim=10, init="scaled", optimizer=sgd)

# Lightning's own Trainer, so all its settings work. FusedStrategy makes the same steps, but many in one block.
trainer = Trainer(
    max_steps=50_000,
    val_check_interval=10_000,
    check_val_every_n_epoch=None,
    accelerator="cpu",
    strategy=FusedStrategy(),
    callbacks=[StepProgressBar()],
    enable_model_summary=False,
)
trainer.fit(model, datamodule=data)
trainer.save_checkpoint("names.ckpt")

# The checkpoint is enough: it holds the vocabulary, the shape, the weights, and hashes of the names in the list.
model = NameModule.load_from_checkpoint("names.ckpt")
print(model.evaluate(data.val_dataloader()))  # loss in nats, perplexity, bits per character, top-1 and top-5 accuracy

names = model.sample(10, temperature=0.8, seed=1, novel=True)
for name, log_prob in zip(names, model.log_prob(names).tolist(), strict=True):
    print(f"{log_prob:8.2f}  {name}")
print(model.sample(5, prefix="mari", top_k=5, seed=1))
