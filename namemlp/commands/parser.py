"""How the command line is parsed: errors are one sentence, and settings name only classes that training needs."""

import importlib
import re
import sys
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
ALLOWED_IMPORTS = ["torch.optim", "lightning.pytorch.cli.ReduceLROnPlateau"]  # by a config file or a checkpoint
ALLOWED_IMPORTS += [f"lightning.pytorch.{name}" for name in ("callbacks", "loggers", "profilers")]
# Arguments of sample and plot (path and default_root_dir) whose options are called as those of the other commands.
COMMON_OPTIONS = {
    "data.path": "where the list that it was trained on is now; null: where it was",
    "trainer.default_root_dir": "folder that lightning_logs is in; null: the current one",
}
HINTS = {"optimizer": "use a class of torch.optim", "lr_scheduler": "use a class of torch.optim.lr_scheduler"}
_load_yaml = get_loader("yaml")


def fail(message: str) -> NoReturn:  # end the program over a user's mistake: one line on stderr, exit code 2
    print(f"namemlp: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def restrict_imports() -> None:  # let settings name no classes but those of training, in this whole process
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=ALLOWED_IMPORTS, instantiate_subclass_spec_in_any=False
    )
    set_loader("yaml", load_yaml, (yaml.YAMLError,))


def load_yaml(text: str) -> Any:
    """What a YAML text says. Raises: yaml.YAMLError: it is not YAML, has more than 20 levels, or aliases."""
    depth = 0  # the loader takes any, and can crash on it; aliases can stand for far more than the text is long
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
        if invalid := re.match(r'Parser key "([\w.]+)": .*(?:Given|Got) value: (.*)', message):
            key, value = invalid.groups()
            message = f"invalid value {shorten(value)} for {key} ({HINTS.get(key, 'see --help')})"
        elif message.startswith(("Problems parsing config", "Unexpected config")):
            message = f"invalid config: {shorten(message.partition(': ')[2] or 'it is empty')}"
        elif missing := re.fullmatch(r'Key "(\w+)\.\w+" not found in namespace\.', message):
            message = f"{missing[1]} must be a mapping; omit it to use the defaults"
        fail(f"{self.file}: {message}" if self.file else message)


def run_command(command: str, *arguments: str) -> None:
    """Call the function of a subcommand that needs no Lightning: its arguments are the options."""
    restrict_imports()
    function = getattr(importlib.import_module(f"namemlp.commands.{command}"), command)
    parser = OneLineErrorParser(prog=f"namemlp {command}", description=SUBCOMMANDS[command])
    names = {option: option.split(".")[-1] for option in COMMON_OPTIONS}
    parser.add_function_arguments(function, as_group=False, skip={*names.values()})
    for option, text in COMMON_OPTIONS.items():
        if names[option] in signature(function).parameters:
            parser.add_argument(f"--{option}", type=str | None, help=text)
    flags = [f"--{name}" for name, value in parser.get_defaults().items() if value is False]
    pairs = zip(arguments, [*arguments[1:], "--"], strict=False)
    given = [f"{first}=true" if first in flags and second.startswith("--") else first for first, second in pairs]
    function(**{names.get(option, option): value for option, value in parser.parse_args(given).items()})
