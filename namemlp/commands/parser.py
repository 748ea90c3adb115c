"""How the command line is parsed: errors are one sentence, and settings name only classes that training needs."""

import difflib
import gc
import importlib
import re
import sys
from collections.abc import Iterable
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
    "baseline": "Show what counting gets on a list: n-gram models of three kinds.",
    "runs": "Show a table of runs: losses, and the settings that are not the defaults.",
    "describe": "Show what is in a list, and what to set for it.",
    "export": "Write a model as a page that draws names in any browser, as a folder, or as an ONNX file.",
}
NO_LIGHTNING = ("sample", "plot", "baseline", "runs", "describe", "export")  # all but runs start in half the time
ALLOWED_IMPORTS = ["torch.optim", "lightning.pytorch.cli.ReduceLROnPlateau"]  # by a config file or a checkpoint
ALLOWED_IMPORTS += [f"lightning.pytorch.{name}" for name in ("callbacks", "loggers", "profilers")]
# Arguments of these commands whose options are called as those of the other commands.
COMMON_OPTIONS = {
    "data.path": "list of names, one per line; null: the bundled list, or where a checkpoint's was",
    "data.lowercase": "turn the names to lower case",
    "data.split": "shares of training, validation and test",
    "data.shuffles": "how often the list is shuffled before it is split",
    "data.split_seed": "seed of these shuffles",
    "data.duplicates": "repeated names: keep; drop: all but the first; together: all in the part of the first",
    "trainer.default_root_dir": "folder that lightning_logs is in; null: the current one",
}
HINTS = {
    "optimizer": "use a class of torch.optim",
    "lr_scheduler": "use a class of torch.optim.lr_scheduler",
    "data.split": "give three fractions that add up to 1, such as --data.split '[0.8, 0.1, 0.1]'",
}
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


def suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence's end that asks for the most similar known word, or nothing where none is similar."""
    words = {name.lower(): name for name in known}
    similar = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.75)
    return f"; did you mean {prefix}{words[similar[0]]}?" if similar else ""


def torch_classes() -> dict[str, type]:  # those that optimizer and lr_scheduler may name
    from torch import optim

    bases, modules = (optim.Optimizer, optim.lr_scheduler.LRScheduler), (optim, optim.lr_scheduler)
    classes = (value for module in modules for value in vars(module).values() if isinstance(value, type))
    return {value.__name__: value for value in classes if issubclass(value, bases)}


class OneLineErrorParser(ArgumentParser):
    """An argument parser whose errors are one sentence, and whose flags need no value."""

    file: Any = None  # of settings, that is being read
    settings: Any = None  # the parser of the subcommand
    flags: Iterable[str] = ()  # the options that are true or false

    def parse_args(self, args: Any = None, *more: Any, **settings: Any) -> Namespace:
        args = [*(sys.argv[1:] if args is None else args)]
        following = zip(args, [*args[1:], "--"], strict=False)
        flags = "|".join([*map(re.escape, self.flags), r"(optimizer|lr_scheduler)\.\w+"])
        pattern = re.compile(f"--({flags})")
        is_bare = [bool(pattern.fullmatch(arg)) and next_arg.startswith("--") for arg, next_arg in following]
        args = [f"{arg}=true" if bare else arg for arg, bare in zip(args, is_bare, strict=True)]
        return super().parse_args(args, *more, **settings)

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
        if invalid := re.match(r'Parser key "([\w.]+)": (.*)(?:Given|Got) value: (.*)', message):
            key, expected, value = invalid.groups()
            known = torch_classes() if key in ("optimizer", "lr_scheduler") else re.findall(r"'(\w+)'", expected)
            message = (
                f"invalid value {shorten(value)} for {key} ({HINTS.get(key, 'see --help')}){suggest(value, known)}"
            )
        elif unknown := re.match(r"Option '(\w+)'", message):  # of an optimizer or a schedule
            known = {name for value in torch_classes().values() for name in signature(value).parameters}
            message += suggest(unknown[1], known)
        elif unknown := re.search(r"(?:unrecognized arguments: |option ')(-*)([\w.]+)", message):
            defaults = (self.settings or self).get_defaults()
            known = {name.replace(".init_args", "") for name, _ in defaults.items()}
            message += suggest(unknown[2], known, prefix=unknown[1])
        elif message.startswith(("Problems parsing config", "Unexpected config")):
            message = f"invalid config: {shorten(message.partition(': ')[2] or 'it is empty')}"
        elif missing := re.fullmatch(r'Key "(\w+)\.\w+" not found in namespace\.', message):
            message = f"{missing[1]} must be a mapping; omit it to use the defaults"
        fail(f"{self.file}: {message}" if self.file else message)


def run_command(command: str, *arguments: str) -> None:
    """Call the function of a subcommand that needs no Lightning: its arguments are the options."""
    restrict_imports()
    function = getattr(importlib.import_module(f"namemlp.commands.{command}"), command)
    gc.freeze()  # what is imported stays
    gc.enable()
    parser = OneLineErrorParser(prog=f"namemlp {command}", description=SUBCOMMANDS[command])
    names = {option: option.split(".")[-1] for option in COMMON_OPTIONS}
    parser.add_function_arguments(function, as_group=False, skip={*names.values()})
    for option, text in COMMON_OPTIONS.items():
        if parameter := signature(function).parameters.get(names[option]):
            parser.add_argument(f"--{option}", type=parameter.annotation, default=parameter.default, help=text)
    parser.flags = [name for name, value in parser.get_defaults().items() if value is False]
    function(**{names.get(option, option): value for option, value in parser.parse_args(arguments).items()})
