"""From a list of names to new ones, in Python: `python examples/fit_and_sample.py` (some seconds; writes here)."""

from lightning import Trainer

from namemlp import NameModule, NamesDataModule
from namemlp.progress import StepProgress

# The bundled list; a path or URL of your own: NamesDataModule("names.txt").
data = NamesDataModule(context_length=4)
sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
model = NameModule(data.vocabulary.characters, context_length=4, embedding_dim=10, init="scaled", optimizer=sgd)

# Lightning's own Trainer, so everything of Lightning's works. Updates are made in blocks where nothing is in the way.
trainer = Trainer(
    max_steps=50_000,
    val_check_interval=10_000,
    check_val_every_n_epoch=None,
    accelerator="cpu",
    callbacks=[StepProgress()],
    enable_model_summary=False,
)
trainer.fit(model, datamodule=data)
trainer.save_checkpoint("names.ckpt")

# The checkpoint is enough: vocabulary, shape and weights, and which names are known.
model = NameModule.load_from_checkpoint("names.ckpt")
print(model.evaluate(data.val_dataloader()))  # loss in nats, perplexity, bits per character, top-1 and top-5 accuracy

names = model.sample(10, temperature=0.8, seed=1, novel=True)
for name, log_probability in zip(names, model.score(names).tolist(), strict=True):
    print(f"{log_probability:8.2f}  {name}")
print(model.sample(5, prefix="mari", top_k=5, seed=1))
