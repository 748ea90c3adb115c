"""How the command line is parsed: errors are one sentence, and settings name only classes that training needs."""

import re
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from namemlp.errors import shorten

SUBCOMMANDS = {
    "fit": "Train a model, or resume from a checkpoint.",
    "validate": "Show a checkpoint's loss and accuracy on the validation split.",
    "test": "Show a checkpoint's loss and accuracy on the training, validation and test split.",
    "predict": "Print each name of a list with its log-probability under a checkpoint's model.",
    "lr_find": "Run a learning-rate range test over 1,000 steps, plot the loss, and suggest a learning rate.",
    "sample": "Print new names, sampled from a checkpoint's model.",
    "plot": "Plot the losses of a checkpoint's run, and which characters its model expects after which.",
}
# What a config file, or a checkpoint, may name to be imported.
ALLOWED_IMPORTS = (
    "torch.optim",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
)
# Options of commands that need no Lightning, called as those of the others.
COMMON_OPTIONS = {
    "data_path": ("data.path", "where the list that it was trained on is now; null: where it was"),
    "default_root_dir": ("trainer.default_root_dir", "folder that lightning_logs is in; null: the current one"),
}
EXPECTED = {"optimizer": "a class of torch.optim", "lr_scheduler": "a class of torch.optim.lr_scheduler"}

_load_yaml = get_loader("yaml")


def fail(message: str) -> NoReturn:
    """End the program over a user's mistake: one line on stderr, exit code 2."""
    print(f"namemlp: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def restrict_imports() -> None:
    """Let settings name the classes that training needs and no others, in this whole process."""
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=list(ALLOWED_IMPORTS), instantiate_subclass_spec_in_any=False
    )
    set_loader("yaml", load_yaml, (yaml.YAMLError,))


def load_yaml(text: str) -> Any:
    """What a YAML text says, unless it is nested as settings never are; the loader takes any depth and can crash on it.

    Raises:
        yaml.YAMLError: it is not YAML, too deep, or has aliases, which can stand for far more than the text is long.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # not libyaml's parser, which has limits of its own
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 20 or isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias, or more than 20 levels, in line {event.start_mark.line + 1}")
    return _load_yaml(text)


class OneLineErrorParser(ArgumentParser):
    """An argument parser whose errors are one sentence."""

    file: Any = None  # of settings, that is being read

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Namespace:
        OneLineErrorParser.file = cfg_path
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except UnicodeDecodeError as error:
            self.error(f"Unexpected config: not valid UTF-8: {error}")
        finally:
            OneLineErrorParser.file = None

    def check(self, settings: dict[str, Any], file: Any) -> None:
        """End the program where settings that were found in a file are not what the parser takes."""
        OneLineErrorParser.file = file
        try:
            self.parse_object(settings, defaults=False)
        except Exception as error:  # jsonargparse expects better
            self.error(str(error))
        finally:
            OneLineErrorParser.file = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(message.split())
        # jsonargparse lists every type that it has tried; what was given and where is what helps.
        invalid = re.match(r'Parser key "(?P<key>[\w.]+)": .*(?:Given|Got) value: (?P<value>.*)', message)
        if invalid:
            hint = f"use {EXPECTED[invalid['key']]}" if invalid["key"] in EXPECTED else "see --help"
            message = f"invalid value {shorten(invalid['value'])} for {invalid['key']} ({hint})"
        elif message.startswith(("Problems parsing config", "Unexpected config")):
            message = f"invalid config: {shorten(message.partition(': ')[2] or 'it is empty')}"
        elif missing := re.fullmatch(r'Key "(\w+)\.\w+" not found in namespace\.', message):
            message = f"{missing[1]} must be a mapping; omit it to use the defaults"
        fail(f"{self.file}: {message}" if self.file else message)


def run_command(function: Callable, arguments: list[str]) -> None:
    """Call the function of a subcommand that needs no Lightning: its arguments are the options."""
    restrict_imports()
    parser = OneLineErrorParser(prog=f"namemlp {function.__name__}", description=SUBCOMMANDS[function.__name__])
    parser.add_function_arguments(function, as_group=False, skip={*COMMON_OPTIONS})
    common = [name for name in COMMON_OPTIONS if name in signature(function).parameters]
    for name in common:
        option, text = COMMON_OPTIONS[name]
        parser.add_argument(f"--{option}", type=str | None, default=None, help=text)
    flags = [f"--{name}" for name, value in parser.get_defaults().as_dict().items() if value is False]
    is_value = [not argument.startswith("--") for argument in arguments[1:]] + [False]
    given = [f"{a}=true" if a in flags and not value else a for a, value in zip(arguments, is_value, strict=False)]
    settings = parser.parse_args(given)
    values = {name: value for name, value in settings.as_dict().items() if name not in ("data", "trainer")}
    function(**values, **{name: settings[COMMON_OPTIONS[name][0]] for name in common})
