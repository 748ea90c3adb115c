"""Mistakes of a user: each gives one sentence on stderr and exit code 2, and leaves no files behind."""

import io
import os
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec import AbstractFileSystem

from namemlp.optimizers import INVALID_SETTINGS
from namemlp.runs import read_checkpoint
from tests.helpers import SMALL
from tests.processes import Command

LAST = "lightning_logs/version_0/checkpoints/last.ckpt"
GIVE_LIST = "data.path takes a list of names, one per line"
GIVE_CHECKPOINT = "give another --ckpt_path"
MAKE_ROOM = "make room there or give another trainer.default_root_dir"
FILES = {
    "empty.txt": b"",
    "blank.txt": b"\xef\xbb\xbf \r\n\t\n",
    "latin.txt": b"emma\nj\xfcrgen\n",
    "utf16.txt": "emma".encode("utf-16"),
    "surrogate.txt": b"emma\nava\n\xed\xa0\x80\n",
    "nul.txt": b"emma\nav\0a\n",
    "few.txt": b"emma\nava\n",
    "one.txt": b"emma\n",
    "table.txt": b"name,count\nemma,5\n",
    "table.tsv": b"emma\tF\t18688\nolivia\tF\t17921\n",
    "table.csv": b"emma;F\nolivia;F\n",
    "line.txt": b"emma\n" + b"a" * 10_001,
    "characters.txt": "\n".join(map(chr, range(0x20000, 0x30001))).encode(),
    "other.yaml": b"- data\n",
    "empty.yaml": b"",
    "broken.yaml": b"data: {path: [}",
    "latin.yaml": b"data: {path: j\xfcrgen}",
    "nul.yaml": b"\0",
    "deep.yaml": b"data: " + b"[" * 100_000,
    "bomb.yaml": b"a: &a [x, x]\nb: &b [*a, *a]",
    "unknown.yaml": b"model: {hiden_size: 3}",
    "nothing.yaml": b"model: null\ndata: {}",
    "number.yaml": b"trainer: 3",
    "binary.ckpt": bytes(range(256)) * 100,
}
MESSAGES = {
    # lists
    "--data.path=none.txt": f"none.txt: no such file; {GIVE_LIST}",
    "--data.path=.": ". is a folder; data.path takes a file, a list of names, one per line",
    "--data.path=empty.txt": "empty.txt holds no names: write one per line",
    "--data.path=blank.txt": "blank.txt holds no names: write one per line",
    "--data.path=latin.txt": "latin.txt, line 2: not valid UTF-8; save the file as UTF-8",
    "--data.path=utf16.txt": "utf16.txt, line 1: not valid UTF-8; save the file as UTF-8",
    "--data.path=surrogate.txt": "surrogate.txt, line 3: not valid UTF-8; save the file as UTF-8",
    "--data.path=nul.txt": "nul.txt, line 2: contains a NUL byte; save the file as UTF-8",
    "--data.path=few.txt": "few.txt has 2 names, too few for a split of [0.8, 0.1, 0.1], which gives 1 / 0 / 1 names: "
    "add names or change data.split",
    "--data.path=one.txt": "one.txt has 1 name, too few for a split of [0.8, 0.1, 0.1], which gives 0 / 0 / 1 names: "
    "add names or change data.split",
    "--data.path=table.txt": "table.txt looks like a table, its first lines have 1 comma each: keep one column, as "
    "with cut -d, -f1 table.txt > table_names.txt",
    "--data.path=table.tsv": "table.tsv looks like a table, its first lines have 2 tabs each: keep one column, as with "
    "cut -f1 table.tsv > table_names.txt",
    "--data.path=table.csv": "table.csv looks like a table, its first lines have 1 semicolon each: keep one column, as "
    "with cut -d';' -f1 table.csv > table_names.txt",
    "--data.path=line.txt": "line.txt, line 2: longer than 10,000 characters; write one name per line",
    "--data.path=characters.txt": "characters.txt: 65,538 different characters exceed the maximum of 65,536",
    "--data.path=zip://x::few.txt": "zip://x::few.txt cannot be read: File is not a zip file",
    "--data.path=nosuch://names": "nosuch://names cannot be read: Protocol not known: nosuch",
    "--data.path=/dev/zero": "/dev/zero, line 1: longer than 10,000 characters; write one name per line",
    # settings
    "--data.split=[1,1,1]": "data.split [1.0, 1.0, 1.0] must be three fractions above 0 that add up to 1",
    "--data.split=[.nan,.5,.5]": "data.split [nan, 0.5, 0.5] must be three fractions above 0 that add up to 1",
    "--data.batch_size=0": "batch_size is 0: it must be at least 1",
    "--data.batch_size=.inf": "invalid value inf for data.batch_size (see --help)",
    "--data.num_workers=100000": f"data.num_workers is 100000: this machine has {os.cpu_count()} cores, use "
    f"at most {max(16, os.cpu_count())}",
    "--data.vocabulary=abc": "vocabulary 'abc' must start with '.' and then hold each character once",
    "--model.context_length=0": "context_length is 0: it must be at least 1",
    "--model.context_length=three": "invalid value three for model.context_length (see --help)",
    "--model.hidden_size=0": "hidden_size is 0: it must be at least 1",
    "--model.hidden_size=1e99": "invalid value 1e+99 for model.hidden_size (see --help)",
    "--model.init_seed=-1": "init_seed is -1: it must be from 0 to 2**63 - 1",
    "--optimizer=Nope": "invalid value Nope for optimizer (use a class of torch.optim)",
    "--optimizer=os.system": "invalid value os.system for optimizer (use a class of torch.optim)",
    "--optimizer.lr=-1": "the optimizer or its lr_scheduler does not take its settings: Invalid learning rate: -1.0",
    "--lr_scheduler=Nope": "invalid value Nope for lr_scheduler (use a class of torch.optim.lr_scheduler)",
    "--seed_everything=-1": "seed_everything is -1: it must be from 0 to 2**32 - 1",
    "--checkpoint.every_n_steps=0": "checkpoint.every_n_steps is 0: it must be above 0, or null",
    "--checkpoint.every_n_minutes=.nan": "checkpoint.every_n_minutes is nan: it must be above 0, or null",
    "--trainer.max_steps=-5": "`max_steps` must be a non-negative integer or -1 (infinite steps). You passed in -5.",
    "--trainer.val_check_interval=0": "trainer.val_check_interval is 0: give a number of steps, or "
    "trainer.limit_val_batches 0",
    "--trainer.precision=nope": "invalid value nope for trainer.precision (see --help)",
    "--trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches is 0: it must be at least 1",
    "--trainer.devices=100000": f"trainer.devices is 100000: this machine has {os.cpu_count()} cores, use "
    f"at most {max(16, os.cpu_count())}",
    "--trainer.default_root_dir=s3://runs": "trainer.default_root_dir is s3://runs: it must be a folder of this "
    "machine",
    # config files
    "--config=other.yaml": "other.yaml: invalid config: - data",
    "--config=empty.yaml": "empty.yaml: invalid config: it is empty",
    "--config=broken.yaml": "broken.yaml: invalid config: while parsing a flow node expected the node content, but "
    "found '}' in \"<unicode string>\", line 1, column 15: data: {path: [} ^",
    "--config=latin.yaml": "latin.yaml: invalid config: not valid UTF-8: 'utf-8' codec can't decode byte 0xfc in "
    "position 14: invalid start byte",
    "--config=nul.yaml": "nul.yaml: invalid config: unacceptable character #x0000: special characters are not "
    'allowed in "<unicode string>", position 0',
    "--config=deep.yaml": "deep.yaml: invalid config: an alias, or more than 20 levels, in line 1",
    "--config=bomb.yaml": "bomb.yaml: invalid config: an alias, or more than 20 levels, in line 2",
    "--config=unknown.yaml": "Subcommand 'fit' does not accept option 'model.hiden_size'; did you mean "
    "model.hidden_size?",
    "--model.hiden_size=3": "unrecognized arguments: --model.hiden_size=3; did you mean --model.hidden_size?",
    "--trainer.maxsteps=3": "unrecognized arguments: --trainer.maxsteps=3; did you mean --trainer.max_steps?",
    "--optimizer=ADAM": "invalid value ADAM for optimizer (use a class of torch.optim); did you mean Adam?",
    "--optimizer.lrr=1": "Option 'lrr' is not accepted; did you mean lr?",
    "--model.init=scale": "invalid value scale for model.init (see --help); did you mean scaled?",
    "--data.split=0.9,0.1,0.1": "invalid value 0.9,0.1,0.1 for data.split (give three fractions that add up to 1, such "
    "as --data.split '[0.8, 0.1, 0.1]')",
    "--config=nothing.yaml": "model must be a mapping; omit it to use the defaults",
    "--config=number.yaml": "trainer is 3: it must be a mapping; omit it to use the defaults",
    # checkpoints
    "--ckpt_path=none.ckpt": "--ckpt_path none.ckpt: no such file; give a .ckpt file, or last for the newest run's "
    "last one",
    "--ckpt_path=.": "--ckpt_path .: is a folder; give a .ckpt file, or last for the newest run's last one",
    "--ckpt_path=last": "--ckpt_path last: no run in lightning_logs has a checkpoint; run fit first or give a path",
    "--ckpt_path=few.txt": f"few.txt is not a checkpoint of namemlp, or it is damaged: {GIVE_CHECKPOINT}",
    "--ckpt_path=binary.ckpt": f"binary.ckpt is not a checkpoint of namemlp, or it is damaged: {GIVE_CHECKPOINT}",
    "--ckpt_path=other.ckpt": f"other.ckpt is not a checkpoint of namemlp, or it is damaged: {GIVE_CHECKPOINT}",
}


@pytest.fixture
def bad_files(folder):
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    torch.save({"state_dict": {}}, "other.ckpt")


@pytest.mark.parametrize("argument", MESSAGES)
def test_bad_input_gives_one_sentence_and_leaves_no_files(bad_files, namemlp, argument):
    result = namemlp("fit", "--trainer.max_steps=1", argument)
    assert result.err == f"namemlp: error: {MESSAGES[argument]}\n"
    assert (result.code, result.out) == (2, "")
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr_scheduler=StepLR", "--lr_scheduler.step_size=0"], f"{INVALID_SETTINGS}: integer modulo by zero"),
        (["--optimizer=SparseAdam"], f"{INVALID_SETTINGS}: SparseAdam does not support dense gradients"),
        (
            ["--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=5000"],
            "training cannot continue with these settings: `val_check_interval` (5000) must be less than or equal",
        ),
    ],
)
def test_settings_that_torch_or_lightning_refuse_give_one_sentence(namemlp, arguments, message):
    result = namemlp("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=5", *arguments)
    assert result.code == 2
    assert result.err.startswith(f"namemlp: error: {message}")
    assert result.err.count("\n") == 1


def test_list_that_fails_while_it_is_read(namemlp):
    class BrokenConnection(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise ConnectionResetError("connection lost")
            return super().read(100)

    class HostFileSystem(AbstractFileSystem):
        def _open(self, path, mode, **_):
            return BrokenConnection(b"emma\n" * 100)

    fsspec.register_implementation("host", HostFileSystem, clobber=True)
    result = namemlp("fit", "--data.path=host://names.txt")
    assert (result.code, result.err) == (2, "namemlp: error: host://names.txt cannot be read: connection lost\n")


def test_root_folder_that_is_a_file(namemlp):
    result = namemlp("fit", "--trainer.max_steps=1", "--trainer.default_root_dir=names.txt")
    sentence = f"names.txt/lightning_logs/version_0 cannot be written (Not a directory): {MAKE_ROOM}"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")


@contextmanager
def without_root_rights(folder):
    """Act as a user without rights; root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    for parent in (folder, *folder.parents):
        parent.chmod(parent.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("more", [(), ("--ckpt_path=last",)], ids=["new", "resumed"])
def test_log_folder_without_write_permission(fit, namemlp, folder, more):
    fit(5)
    before = Path(LAST).read_bytes()
    for path in (Path("lightning_logs"), Path("lightning_logs/version_0"), Path(LAST).parent):
        path.chmod(0o555)
    with without_root_rights(folder):
        result = namemlp("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=10", *more)
    assert result.code == 2
    assert f" cannot be written (Permission denied): {MAKE_ROOM}" in result.err
    assert result.err.count("\n") == 1
    assert Path(LAST).read_bytes() == before


@pytest.mark.parametrize(
    ("room", "settings", "file"),
    [
        (100_000, ("--trainer.val_check_interval=1000",), "checkpoints/best-step1000-loss"),
        (100_000, ("--trainer.limit_val_batches=0", "--checkpoint.every_n_steps=10"), "checkpoints/last.ckpt"),
        (400_000, ("--trainer.val_check_interval=1000", "--trainer.log_every_n_steps=1"), ""),  # the curves
    ],
)
def test_full_disk_leaves_the_previous_checkpoints_intact(fit, room, settings, file):
    """No file can grow beyond some bytes, as if the disk were full."""
    fit(5, "--model.hidden_size=1000")  # checkpoints of 180 kB
    command = Command("fit", "--ckpt_path=last", "--trainer.max_steps=100000", *settings, max_file_bytes=room)
    assert command.wait() == 2, command.err
    assert command.err.startswith(f"namemlp: error: {Path('lightning_logs/version_0') / file}")
    assert f" cannot be written (File too large): {MAKE_ROOM} (the previous checkpoint {LAST} is intact)" in command.err
    assert command.err.count("\n") == 1
    step = read_checkpoint(Path(LAST))["global_step"]
    assert step == 5 if file else step > 5
    assert not list(Path(LAST).parent.glob("*.part"))
