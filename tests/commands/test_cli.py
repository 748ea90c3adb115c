"""The real command, run in a temporary folder."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import zipfile
from inspect import signature
from pathlib import Path

import hatchling.build
import pytest
import torch
import yaml
from lightning import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from namemlp import NameModule, NamesDataModule, UserError
from namemlp.commands.cli import TRAINER_DEFAULTS
from namemlp.commands.parser import SUBCOMMANDS
from namemlp.optimizers import SGD
from namemlp.runs import LastCheckpoint, flatten
from namemlp.runs.reading import RESUME_KEYS
from tests.helpers import SMALL, SMALL_LIST, curves
from tests.processes import Command, start_two

PROJECT = Path(__file__).parents[2]
BASE, TUNED = PROJECT / "configs" / "base.yaml", PROJECT / "configs" / "tuned.yaml"
LAST = "lightning_logs/version_{}/checkpoints/last.ckpt"


def test_no_config_is_base_yaml(namemlp):
    bare = namemlp("fit", "--print_config")
    base = namemlp("fit", "--config", BASE, "--print_config")
    assert bare.code == base.code == 0
    assert yaml.safe_load(bare.out) == yaml.safe_load(base.out)


def test_base_yaml_shows_the_defaults_of_the_signatures(namemlp):
    settings = yaml.safe_load(BASE.read_text())
    assert settings["optimizer"] == SGD
    base, bare = flatten(settings), flatten(yaml.safe_load(namemlp("fit", "--print_config").out))
    assert base == {name: bare[name] for name in base}
    defaults = {
        f"{group}.{name}": parameter.default
        for group, owner in dict(data=NamesDataModule, model=NameModule, checkpoint=LastCheckpoint).items()
        for name, parameter in signature(owner).parameters.items()
    }
    linked = {"data.seed": "seed_everything", "data.context_length": "model.context_length"}
    for name, elsewhere in {**linked, "model.lr_scheduler": "lr_scheduler"}.items():
        assert defaults.pop(name) == base[elsewhere]
    assert defaults.pop("model.optimizer") is None  # stands for SGD
    del defaults["model.vocabulary"]  # has no default
    assert flatten(defaults) == {name: base[name] for name in defaults}
    trainer = {name: parameter.default for name, parameter in signature(Trainer).parameters.items()} | TRAINER_DEFAULTS
    assert settings["trainer"] == {name: trainer[name] for name in [*TRAINER_DEFAULTS, *settings["trainer"]]}


def test_base_yaml_explains_every_setting_of_data_and_model(namemlp):
    settings = yaml.safe_load(namemlp("fit", "--print_config").out)
    lines = BASE.read_text().splitlines()
    for name in [*settings["data"], *settings["model"]]:
        [line] = [line for line in lines if line.strip().startswith(f"{name}:")]
        assert "#" in line


def test_fit_writes_a_run_folder_and_prints_the_next_commands(fit):
    result = fit(20, "--trainer.val_check_interval=10")
    run = Path("lightning_logs/version_0")
    files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert [f for f in files if f.startswith("events")]
    assert "config.yaml" in files
    assert "checkpoints/last.ckpt" in files
    [best] = [f for f in files if f.startswith("checkpoints/best-")]

    steps = range(5, 21, 5)
    for tag in ("train/loss", "train/log10_loss", "lr"):
        assert list(curves(run)[tag]) == list(steps)
    val = curves(run)["val/loss"]
    assert list(val) == [10, 20]
    losses = curves(run)["train/loss"]
    log10 = curves(run)["train/log10_loss"]
    assert all(10 ** log10[step] == pytest.approx(losses[step], rel=1e-5) for step in steps)
    for tag in ("val/perplexity", "val/bits_per_character", "val/top1", "val/top5"):
        assert list(curves(run)[tag]) == [10, 20]

    rows = {words[0]: words[1:] for line in result.out.splitlines() if (words := line.split())}
    assert {"train", "val", "test"} <= rows.keys()
    assert float(rows["val"][1]) == pytest.approx(val[20], abs=1e-4)
    assert f"{val[20]:.4f}" in best  # the loss falls, so the last one is the best
    assert LAST.format(0) in result.out
    assert "tensorboard --logdir lightning_logs" in result.out
    assert "--ckpt_path lightning_logs/version_0/checkpoints/last.ckpt --trainer.max_steps 40" in result.out


def test_stderr_has_no_tips_and_no_false_warnings(fit):
    settings = [setting for setting in SMALL if "log_every" not in setting]
    first = [sys.executable, "-m", "namemlp", "fit", "--data.path=names.txt", *settings, "--trainer.max_steps=20"]
    assert subprocess.run(first, capture_output=True, text=True).stderr == ""  # also none of an import
    Path("lightning_logs").rename("moved")
    moved = "--ckpt_path=moved/version_0/checkpoints/last.ckpt"
    for more in (["test", moved], ["fit", moved, "--trainer.max_steps=25", "--trainer.limit_val_batches=0"]):
        command = Command(*more)
        assert command.result()
        assert command.err == ""


def test_progress_is_one_line_per_validation_or_a_bar_on_a_terminal(fit, namemlp):
    lines = [line for line in fit(30, "--trainer.val_check_interval=10").out.splitlines() if line.startswith("step ")]
    for line, step in zip(lines, (10, 20, 30), strict=True):
        left = r", 0:00:\d\d left" if step < 30 else ""
        assert re.fullmatch(rf"step {step}: loss [\d.]+, val/loss [\d.]+, [\d,]+ steps/s{left}", line)
    assert "step " not in fit(30, "--trainer.enable_progress_bar=false").out

    ours, theirs = pty.openpty()
    terminal = dict(terminal=os.ttyname(theirs), environment={"COLUMNS": "120", "TERM": "xterm"})
    command = Command("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=30", **terminal)
    shown = b""
    while command.process.is_alive() or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            shown += os.read(ours, 4096)
    assert command.wait() == 0, shown
    val = curves("lightning_logs/version_2")["val/loss"][30]
    plain = re.sub(r"\x1b\[[\d;?]*\w", "", shown.decode())
    assert re.search(rf"━ +30/30 steps loss [\d.]+, val/loss {val:.4f}, [\d,]+ steps/s", plain), plain
    assert "step 30" not in plain


def assert_same_curves(run, other):
    run, other = curves(run), curves(other)
    assert run["lr"] == other["lr"]
    assert run["train/loss"] == other["train/loss"]


def test_the_printed_resume_command_works(fit, namemlp):
    result = fit(15)
    command = re.search(r"python -m namemlp (fit .*)", result.out)[1].split()
    result = namemlp(*command)
    assert result.code == 0, result.err
    assert sorted(curves("lightning_logs/version_0")["train/loss"]) == list(range(5, 31, 5))


def test_last_resumes_the_newest_run_with_one_unbroken_curve(fit):
    fit(60, "--trainer.val_check_interval=20")
    fit(30, "--trainer.val_check_interval=20")
    fit(60, "--trainer.val_check_interval=20", "--ckpt_path=last")
    assert not Path("lightning_logs/version_2").exists()
    assert_same_curves("lightning_logs/version_1", "lightning_logs/version_0")
    whole = curves("lightning_logs/version_0")["val/loss"]
    assert list(whole) == [20, 40, 60]
    resumed = curves("lightning_logs/version_1")["val/loss"]
    assert {step: resumed[step] for step in whole} == whole
    first, second = (torch.load(LAST.format(run), weights_only=True) for run in (0, 1))
    assert first["global_step"] == second["global_step"] == 60
    for name, weights in first["state_dict"].items():
        assert torch.equal(weights, second["state_dict"][name])
    assert yaml.safe_load(Path("lightning_logs/version_1/config.yaml").read_text())["trainer"]["max_steps"] == 60


def test_points_beyond_the_checkpoint_of_a_killed_run_appear_once(fit):
    fit(60)
    fit(20)
    last = Path(LAST.format(1))
    saved = last.read_bytes()
    fit(40, "--ckpt_path=last")
    last.write_bytes(saved)
    fit(60, "--ckpt_path=last")
    assert_same_curves("lightning_logs/version_1", "lightning_logs/version_0")
    points = EventAccumulator("lightning_logs/version_1").Reload().Scalars("train/loss")
    assert [point.step for point in points] == list(range(5, 61, 5))


def test_resuming_a_finished_run_prints_how_to_continue(fit):
    fit(10)
    before = Path(LAST.format(0)).read_bytes()
    result = fit(10, "--ckpt_path=last")
    assert "already at step 10: raise --trainer.max_steps to continue" in result.out
    assert Path(LAST.format(0)).read_bytes() == before


def test_checkpoint_is_enough(fit, namemlp, tmp_path, monkeypatch):
    """validate, test and predict take the list, the shape and the split from the checkpoint."""
    fitted = fit(
        10, "--model.context_length=5", "--data.shuffles=2", "--data.split=[0.7,0.2,0.1]", "--model.init=scaled"
    )
    files = sorted(Path().rglob("*"))
    tested = namemlp("test", "--ckpt_path=last")
    assert tested.code == 0, tested.err
    assert tested.out.strip() in fitted.out  # the same table
    assert not tested.err
    validated = namemlp("validate", "--ckpt_path", LAST.format(0))
    assert [line for line in tested.out.splitlines() if line.startswith("val")] == validated.out.splitlines()[2:]

    predicted = namemlp("predict", "--ckpt_path=best")
    lines = [line.split("\t") for line in predicted.out.splitlines()]
    assert [name for name, _ in lines] == SMALL_LIST
    model = NameModule.load_from_checkpoint(LAST.format(0))
    for name, score in lines[:10]:
        ids = model.vocabulary.encode("....." + name + ".")
        x = ids.unfold(0, 6, 1)
        log_probabilities = model(x[:, :5]).log_softmax(1)
        assert float(score) == pytest.approx(log_probabilities[torch.arange(len(x)), x[:, 5]].sum().item(), abs=1e-3)
    assert sorted(Path().rglob("*")) == files  # no new files


def test_predict_takes_another_list_and_names_unknown_characters(fit, namemlp):
    fit(5)
    Path("other.txt").write_text("bo\nava\n")
    assert [
        line.split()[0] for line in namemlp("predict", "--ckpt_path=last", "--data.path=other.txt").out.splitlines()
    ] == ["bo", "ava"]
    Path("other.txt").write_text("bo\nкатя\n")
    result = namemlp("predict", "--ckpt_path=last", "--data.path=other.txt")
    assert (result.code, result.out) == (2, "")
    assert result.err == "namemlp: error: other.txt has 4 characters that the model does not know: 'а', 'к', 'т', 'я'\n"


def test_last_is_the_run_that_was_saved_last(fit, namemlp):
    fit(5)
    fit(10)
    assert "already at step 10" in fit(10, "--ckpt_path=last").out
    fit(15, f"--ckpt_path={LAST.format(0)}")
    assert "already at step 15" in fit(15, "--ckpt_path=last").out


def test_schedule_that_ends_before_the_run_is_refused(fit, namemlp):
    one_cycle = ("--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=0.1", "--lr_scheduler.total_steps=20")
    assert (
        "continue    the learning-rate schedule ends at step 20: train longer in a new run\n" in fit(20, *one_cycle).out
    )
    assert fit(20, "--ckpt_path=last").out == (
        "already at step 20: the learning-rate schedule ends at step 20: train longer in a new run\n"
    )
    before = Path(LAST.format(0)).read_bytes()
    for more in ((), ("--ckpt_path=last",)):
        result = namemlp("fit", "--data.path=names.txt", *SMALL, *one_cycle, "--trainer.max_steps=25", *more)
        assert "lr_scheduler.total_steps is 20 but trainer.max_steps 25: make them the same" in result.err
        assert result.code == 2
    assert Path(LAST.format(0)).read_bytes() == before


def test_callbacks_of_a_user_do_not_replace_those_of_the_program(fit):
    Path("own.yaml").write_text("trainer: {callbacks: [{class_path: LearningRateMonitor}, {class_path: ModelSummary}]}")
    result = fit(20, "--config=own.yaml", "--trainer.val_check_interval=15")
    run = Path("lightning_logs/version_0")
    assert "lr-SGD" in curves(run)  # the user's
    assert list(curves(run)["val/loss"]) == [15, 20]  # FinalValidation
    assert "val/dead_units" in curves(run)  # ModelDiagnostics
    assert "step 20: loss" in result.out  # StepProgressBar
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert len(list(run.glob("checkpoints/best-step20-*.ckpt"))) == 1
    callbacks = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert [callback["class_path"].split(".")[-1] for callback in callbacks] == ["LearningRateMonitor", "ModelSummary"]
    assert "step 20: loss" not in fit(20, "--trainer.callbacks=TQDMProgressBar").out  # there is one progress bar


def test_named_runs_and_composed_configs(fit, namemlp):
    base, tuned = f"--config={BASE}", f"--config={TUNED}"
    here = ("--data.path=names.txt", *SMALL)
    fit(5, base, *here, "--name=base", "--trainer.max_steps=5")
    out = fit(5, base, tuned, *here, "--trainer.max_steps=5").out
    assert "fused path: gradients in closed form, up to 500 steps per block (the optimizer is AdamW)\n" in out
    assert "curves      tensorboard --logdir lightning_logs\n" in out
    runs = [Path(f"lightning_logs/{name}/version_0") for name in ("base", "tuned")]
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in runs)
    assert first["hyper_parameters"]["optimizer"]["class_path"] == "torch.optim.SGD"
    first, second = (checkpoint["hyper_parameters"] for checkpoint in (first, second))
    assert second["init_seed"] == first["init_seed"] and second["context_length"] == 8
    assert "momentum" not in second["optimizer"]["init_args"]  # of the base's SGD

    fit(9, f"--ckpt_path={runs[0] / 'checkpoints/last.ckpt'}", "--name=base")
    assert str(runs[0]) in fit(12, "--ckpt_path=last").out
    result = namemlp("fit", "--ckpt_path=last", "--name=other", "--trainer.max_steps=20")
    assert result.code == 2 and f"belongs to the run {runs[0]}: omit --name" in result.err
    assert sorted(path.name for path in Path("lightning_logs").iterdir()) == ["base", "tuned"]
    for name in ("../base", "a/b", "", "version_1"):
        result = namemlp("fit", f"--name={name}")
        assert result.code == 2 and f"name is {name!r}: it may have letters" in result.err


def test_any_optimizer_and_scheduler_from_the_command_line(fit):
    fit(10, "--optimizer=AdamW", "--optimizer.lr=0.003", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=5")
    assert curves("lightning_logs/version_0")["lr"] == pytest.approx({5: 0.003, 10: 0.0003})
    checkpoint = torch.load(LAST.format(0), weights_only=True)
    assert "exp_avg" in checkpoint["optimizer_states"][0]["state"][0]


def test_other_optimizers_start_from_their_own_defaults(fit):
    fit(5, "--optimizer=AdamW")
    here = ("--data.path=names.txt", "--trainer.max_steps=5", *SMALL)
    fit(5, f"--config={BASE}", "--optimizer=AdamW", *here)
    without, with_config = (torch.load(LAST.format(run), weights_only=True) for run in (0, 1))
    group = without["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["weight_decay"]) == (0.001, 0.01)  # torch's for AdamW, not SGD's
    group = with_config["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["weight_decay"]) == (0.001, 0.01)  # also where a config sets SGD's
    Path("sgd.yaml").write_text("optimizer: {class_path: SGD, init_args: {lr: 0.02}}")
    assert "SGD with lr 0.02" in fit(5, "--config=sgd.yaml", "--optimizer=SGD", *here).out


def test_config_of_a_run_starts_a_new_run_with_its_settings(fit, namemlp):
    fit(5, "--model.embedding_dim=4")
    fit(10, "--ckpt_path=last")
    again = namemlp("fit", "--config=lightning_logs/version_0/config.yaml", "--trainer.max_steps=5")
    assert again.code == 0, again.err
    assert "version_1" in again.out
    # also with the checkpoint named before a config, which must not take it back
    result = namemlp("fit", f"--ckpt_path={LAST.format(1)}", "--config=lightning_logs/version_1/config.yaml")
    assert "already at step 5" in result.out


def test_settings_that_define_a_step_cannot_change_on_resume(fit, namemlp):
    fit(5, "--trainer.gradient_clip_val=0.5")
    result = namemlp("fit", f"--config={BASE}", "--ckpt_path=last", "--data.path=names.txt", *SMALL)
    assert result.code == 2
    assert f"trainer.gradient_clip_val is None here but 0.5 in {LAST.format(0)}" in result.err
    fit(10, "--ckpt_path=last")
    assert torch.load(LAST.format(0), weights_only=True)["trainer"]["gradient_clip_val"] == 0.5


def test_seeds_decide_the_order_and_the_initial_weights(fit):
    settings = ["--seed_everything=2147483647", "--seed_everything=7", "--seed_everything=7", "--model.init_seed=7"]
    for setting in settings:
        fit(5, setting)
    runs = [torch.load(LAST.format(run), weights_only=True)["state_dict"] for run in range(4)]
    weights = [run["network.output.weight"] for run in runs]
    assert torch.equal(weights[1], weights[2])
    moved = [(weights[run] - weights[0]).abs().max() for run in (1, 3)]
    assert 0 < moved[0] < 0.5  # 5 steps with other examples
    assert moved[1] > 1  # other initial weights


def interrupt(step, signum, *commands):
    """Send a signal to the first process of an endless `fit` after a step: the exit codes, and what the first wrote."""
    try:
        commands[0].wait_for(lambda: f"\nstep {step}" in commands[0].out)
        os.kill(commands[0].pid, signum)
        return [command.wait() for command in commands], commands[0].out
    finally:
        for command in commands:
            command.kill()


ENDLESS = ("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=1000000")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_run_stopped_by_a_signal_resumes_exactly(fit, signum):
    [code], rest = interrupt(400, signum, Command(*ENDLESS, "--trainer.val_check_interval=200"))
    assert code == 128 + signum
    stopped = int(re.search(r"interrupted at step ([\d,]+); resume with: ", rest)[1].replace(",", ""))
    assert f"--ckpt_path {LAST.format(0)}" in rest
    assert torch.load(LAST.format(0), weights_only=True)["global_step"] == stopped

    fit(stopped + 50, "--trainer.val_check_interval=200", "--ckpt_path=last")
    fit(stopped + 50, "--trainer.val_check_interval=200")
    resumed, straight = (torch.load(LAST.format(run), weights_only=True)["state_dict"] for run in (0, 1))
    for name, weights in straight.items():
        assert torch.equal(weights, resumed[name])
    assert_same_curves("lightning_logs/version_0", "lightning_logs/version_1")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_one_of_two_processes_stops_both(folder, signum):
    settings = ("--trainer.strategy=fused_ddp", "--trainer.devices=2", "--trainer.val_check_interval=50")
    codes, rest = interrupt(50, signum, *start_two(*ENDLESS, *settings))
    assert codes[0] == 128 + signum
    assert codes[1] in (128 + signum, 128 + signal.SIGTERM)  # asked to stop by the first
    assert "interrupted at step" in rest
    assert Path(LAST.format(0)).is_file()


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_truncated_checkpoint_is_refused(fit, namemlp, subcommand):
    fit(5)
    whole = Path(LAST.format(0)).read_bytes()
    for size in (0, 1, 1000, len(whole) // 2, len(whole) - 1):
        Path("cut.ckpt").write_bytes(whole[:size])
        result = namemlp(subcommand, "--ckpt_path=cut.ckpt")
        assert result.err == (
            "namemlp: error: cut.ckpt is not a checkpoint of namemlp, or it is damaged: give another --ckpt_path\n"
        )
        assert result.code == 2


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_evaluation_needs_a_checkpoint(namemlp, subcommand):
    result = namemlp(subcommand)
    assert result.err == f"namemlp: error: {subcommand} needs a checkpoint: --ckpt_path last, or the path of one\n"
    assert result.code == 2


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_other_shape_than_in_the_checkpoint_is_refused(fit, namemlp, subcommand):
    fit(5)
    result = namemlp(subcommand, "--ckpt_path=last", "--model.hidden_size=30", "--trainer.max_steps=10")
    sentence = f"model.hidden_size is 30 here but 20 in {LAST.format(0)}, whose weights have that shape: "
    sentence += "match it, or start a new run"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")


@pytest.mark.parametrize(
    ("setting", "here", "there"),
    [
        ("--data.batch_size=16", "16", "32"),
        ("--data.split=[0.6,0.2,0.2]", "[0.6, 0.2, 0.2]", "[0.8, 0.1, 0.1]"),
        ("--data.shuffles=2", "2", "1"),
        ("--seed_everything=3", "3", "2147483647"),
        ("--optimizer.lr=0.5", "0.5", "0.01"),
        ("--optimizer.momentum=0.9", "0.9", "0.0"),
        ("--model.init=scaled", "scaled", "notebook"),
    ],
)
def test_resume_refuses_changed_settings(fit, namemlp, setting, here, there):
    fit(5)
    result = namemlp("fit", "--ckpt_path=last", "--trainer.max_steps=10", setting)
    name = setting[2:].split("=")[0]
    sentence = f"{name} is {here} here but {there} in {LAST.format(0)}: match it, start a new run, or pass "
    sentence += f"--allow_changes; `namemlp fit --ckpt_path {LAST.format(0)}` takes the run's own settings"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")


def test_resume_names_every_changed_setting(fit, namemlp):
    fit(5)
    settings = ("--data.shuffles=2", "--optimizer.lr=0.5", "--optimizer.momentum=0.9", "--model.dropout=0.1")
    result = namemlp("fit", "--ckpt_path=last", *settings)
    changes = {"data.shuffles": (2, 1), "optimizer.lr": (0.5, 0.01), "optimizer.momentum": (0.9, 0.0)}
    for name, (here, there) in {**changes, "model.dropout": (0.1, 0.0)}.items():
        assert f"{name} is {here} here but {there} in {LAST.format(0)}" in result.err
    way_out = f"`namemlp fit --ckpt_path {LAST.format(0)}` takes the run's own settings"
    assert result.err.endswith(f": match them, start a new run, or pass --allow_changes; {way_out}\n")


def test_other_optimizer_or_scheduler_is_refused(fit, namemlp):
    fit(5)
    result = namemlp("fit", "--ckpt_path=last", "--trainer.max_steps=10", "--optimizer=AdamW")
    assert result.code == 2
    assert f"optimizer.class_path is torch.optim.AdamW here but torch.optim.SGD in {LAST.format(0)}" in result.err
    result = namemlp("fit", "--ckpt_path=last", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=3")
    assert result.code == 2
    assert "lr_scheduler.class_path is torch.optim.lr_scheduler.StepLR here but None" in result.err


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_other_vocabulary_is_refused(fit, namemlp, subcommand):
    fit(5)
    characters = torch.load(LAST.format(0), weights_only=True)["hyper_parameters"]["vocabulary"]
    other = "." + characters[:0:-1]
    result = namemlp(subcommand, "--ckpt_path=last", f"--data.vocabulary={other}")
    assert (result.code, result.out) == (2, "")
    assert f"data.vocabulary is {other} here but {characters} in {LAST.format(0)}" in result.err


def test_folder_that_fit_did_not_make_is_not_touched(fit, namemlp):
    fit(5)
    mine = Path("mine/checkpoints")
    mine.mkdir(parents=True)
    (mine / "last.ckpt").write_bytes(Path(LAST.format(0)).read_bytes())
    Path("mine/config.yaml").write_text("mine")
    fit(10, "--ckpt_path=mine/checkpoints/last.ckpt")
    assert Path("mine/config.yaml").read_text() == "mine"
    assert Path(LAST.format(1)).is_file()


def test_checkpoint_with_weights_only_is_evaluated_but_not_resumed(fit, namemlp):
    fit(5)
    checkpoint = torch.load(LAST.format(0), weights_only=True)
    torch.save({k: v for k, v in checkpoint.items() if k not in RESUME_KEYS}, "weights.ckpt")
    assert namemlp("validate", "--ckpt_path=weights.ckpt").code == 0
    Path("names.txt").write_text("\n".join(sorted(SMALL_LIST)))
    assert namemlp("validate", "--ckpt_path=weights.ckpt", "--allow_changes").code == 0
    Path("names.txt").write_text("\n".join(SMALL_LIST), encoding="utf-8")
    result = namemlp("fit", "--ckpt_path=weights.ckpt", "--trainer.max_steps=10")
    sentence = "weights.ckpt contains weights only; cannot resume training: give another --ckpt_path"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")


def save_as_version_0_1(path):
    """Save the last checkpoint with the keys that namemlp 0.1 gave one."""
    checkpoint = torch.load(LAST.format(0), weights_only=True)
    position = {"batches_read": 5, "update_size": 32}
    del checkpoint["hyper_parameters"]["network"], checkpoint["trainer"]["world_size"]
    checkpoint["hyper_parameters"]["updates_per_block"] = 2500
    checkpoint["known_names"] = checkpoint.pop("training_names")
    checkpoint["random_states"] = checkpoint.pop("rng_states")
    checkpoint["NamesDataModule"] = {"corpus": checkpoint["NamesDataModule"]["sha256"], "train_loader": position}
    checkpoint["loops"]["fit_loop"]["state_dict"] = {"combined_loader": [position]}
    torch.save(checkpoint, path)


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict", "sample", "plot"])
def test_checkpoint_of_version_0_1_is_refused(fit, namemlp, subcommand):
    fit(5)
    save_as_version_0_1("old.ckpt")
    result = namemlp(subcommand, "--ckpt_path=old.ckpt")
    sentence = "old.ckpt was saved by namemlp 0.1, whose checkpoints this version does not read: train again"
    assert (result.code, result.out, result.err) == (2, "", f"namemlp: error: {sentence}\n")
    with pytest.raises(UserError, match=sentence):
        NameModule.load_from_checkpoint("old.ckpt")


def test_resume_needs_the_same_list(fit, namemlp):
    fit(5)
    Path("other.txt").write_text("\n".join(reversed(SMALL_LIST)))
    result = namemlp("fit", "--ckpt_path=last", "--trainer.max_steps=10", "--data.path=other.txt")
    assert result.code == 2
    assert re.fullmatch(
        rf"namemlp: error: other.txt \(SHA-256 \w+…\) is not the list that {LAST.format(0)} was trained on, which was "
        r"names.txt as it was then \(\w+…\): match it, start a new run, or pass --allow_changes"
        rf"; `namemlp fit --ckpt_path {LAST.format(0)}` takes the run's own settings\n",
        result.err,
    )
    Path("moved.txt").write_text("\r\n".join(SMALL_LIST))
    fit(10, "--ckpt_path=last", "--data.path=moved.txt")


def test_changed_list_is_not_split_again(fit, namemlp):
    fit(5)
    Path("names.txt").write_text("\n".join(sorted(SMALL_LIST)))
    for subcommand in ("validate", "test"):
        result = namemlp(subcommand, "--ckpt_path=last")
        assert (result.code, result.out) == (2, "")
        assert "is not the list that" in result.err
    assert len(namemlp("predict", "--ckpt_path=last").out.splitlines()) == len(SMALL_LIST)
    Path("other.txt").write_text("\n".join(sorted(SMALL_LIST)))
    assert namemlp("test", "--ckpt_path=last", "--data.path=other.txt").code == 0


def test_help_explains_settings(namemlp):
    top = " ".join(namemlp("--help").out.split())
    assert all(f"{name} {text}" in top for name, text in SUBCOMMANDS.items())
    text = " ".join(namemlp("fit", "--help").out.split())
    assert "characters that the model sees (T) (type: int, default: 3)" in text
    assert "examples in a training batch, per process (type: int, default: 32)" in text
    assert "--ckpt_path CKPT_PATH Checkpoint to resume from" in text


def test_help_is_short_where_a_checkpoint_is_used_and_puts_the_trainer_last(namemlp):
    text = namemlp("fit", "--help").out
    titles = ["Run", "Data", "Model", "Optimizer", "Learning-rate schedule", "Checkpoint", "Trainer (of Lightning)"]
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE) == ["options", *titles]
    for command in ("validate", "test", "predict"):
        text = namemlp(command, "--help").out
        assert len(re.findall(r"^  (-\w|--\w)", text, re.MULTILINE)) <= 12
        assert "--data.path" in text and "--model" not in text
    assert "--whole" in namemlp("test", "--help").out
    assert namemlp("--version").out == "namemlp 0.2.0\n"
    assert namemlp().out == namemlp("--help").out


def test_flags_need_no_value(namemlp):
    flags = ("--data.lowercase", "--trainer.detect_anomaly", "--optimizer.nesterov", "--optimizer.momentum=0.9")
    bare = namemlp("fit", *flags, "--print_config")
    full = namemlp("fit", *(f"{flag}=true" if "=" not in flag else flag for flag in flags), "--print_config")
    assert (bare.code, bare.out) == (0, full.out)
    assert yaml.safe_load(bare.out)["data"]["lowercase"] is True


def test_whole_list_is_evaluated(fit, namemlp):
    fit(5)
    Path("other.txt").write_text("\n".join(SMALL_LIST[:5]))
    rows = [
        line.split()
        for line in namemlp("test", "--ckpt_path=last", "--data.path=other.txt", "--whole").out.splitlines()
    ]
    [row] = [row for row in rows if row and row[0] == "whole"]
    examples = sum(len(name) + 1 for name in SMALL_LIST[:5])
    assert int(row[1]) == examples
    assert namemlp("predict", "--ckpt_path=last", "--data.path=other.txt", "--output=out.txt").out == ""
    values = [float(line.split("\t")[1]) for line in Path("out.txt").read_text().splitlines()]
    assert -sum(values) / examples == pytest.approx(float(row[2]), abs=1e-3)
    Path("other.txt").write_text("\n".join(SMALL_LIST[:20]))
    out = namemlp("validate", "--ckpt_path=last", "--data.path=other.txt").out
    assert "other.txt: its validation split; `namemlp test --whole` evaluates all its names" in out


def test_last_finds_a_renamed_run(fit, namemlp):
    fit(5)
    Path("lightning_logs/version_0").rename("lightning_logs/my best run")
    result = namemlp("sample", "--ckpt_path=last", "--num_names=3")
    assert len(result.out.splitlines()) == 3
    assert "my best run" in fit(10, "--ckpt_path=last").out


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(namemlp):
    one_cycle = ("--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=0.1", "--lr_scheduler.total_steps=2")
    settings = ("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=5")
    assert namemlp(*settings, *one_cycle).code == 2
    assert [path.name for path in Path().iterdir()] == ["names.txt"]
    assert namemlp(*settings, "--trainer.logger=false").code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["checkpoints", "names.txt"]


def test_fit_trains_on_when_nobody_reads_its_output(folder):
    first = [sys.executable, "-m", "namemlp", "fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=20"]
    with subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert torch.load(LAST.format(0), weights_only=True)["global_step"] == 20


def test_small_lists_get_a_remark_ten_validations_and_the_better_checkpoint(namemlp):
    result = namemlp("fit", "--data.path=names.txt", "--trainer.max_steps=1000")
    assert "80 names are soon learned by heart: use --model.init scaled, about 800 --trainer.max_steps" in result.out
    losses = curves("lightning_logs/version_0")["val/loss"]
    assert list(losses) == list(range(100, 1001, 100))
    best = min(losses.values())
    assert (best < losses[1000] - 0.01) == ("\nbetter      " in result.out)
    assert re.search(r"^sample      python -m namemlp sample --ckpt_path \S+ckpt$", result.out, re.MULTILINE)


def test_wheel_works_outside_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    wheel = hatchling.build.build_wheel(tmp_path)
    zipfile.ZipFile(tmp_path / wheel).extractall(tmp_path / "site")
    code = "import sys, namemlp; print(namemlp.__file__); "
    code += "sys.argv[1:] = ['fit', '--trainer.max_steps=2', '--trainer.strategy=auto']; "  # compiles no kernel
    code += "from namemlp.__main__ import main; main()"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path / "site" / "namemlp"))
    assert "32,178 names" in run.stdout
    assert (tmp_path / LAST.format(0)).is_file()
    code = "import sys; sys.argv[1:] = ['sample', '--num_names=3']; from namemlp.__main__ import main; main()"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert len(run.stdout.splitlines()) == 3  # of the model in the wheel
    code = "import sys; sys.argv[1:] = ['export', '--ckpt_path=last']; from namemlp.__main__ import main; main()"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (tmp_path / "names.html").is_file(), run.stderr
