"""`--model.network.NAME VALUE`: the settings of the network that is chosen, and their help."""

import json
import re
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from namemlp import NETWORKS
from namemlp.commands.parser import load_yaml
from namemlp.errors import UserError
from namemlp.network import network_class
from namemlp.networks import split_network

OPTION = re.compile(r"--model\.network\.(?:init_args\.)?([^=]+)(?:=(.*))?", re.DOTALL)


def split_options(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The other arguments, and the settings of the network that are among them. Raises: UserError: one is not YAML."""
    rest, options, args = [], {}, [*args]
    while args:
        arg = args.pop(0)
        if match := OPTION.fullmatch(arg):
            name, value = match.groups()
            if value is None:
                value = args.pop(0) if args and not args[0].startswith("--") else "true"
            try:
                options[name] = load_yaml(value)
                json.dumps(options)
            except (yaml.YAMLError, TypeError) as error:
                raise UserError(f"invalid value {value} for model.network.{name}: give a number or a word") from error
        else:
            rest.append(arg)
    return rest, options


def network_option(network: Any, options: dict[str, Any]) -> str:
    """A network with further settings as one argument."""
    name, settings = split_network(network)
    return "--model.network=" + json.dumps({"name": name, **settings, **options})


def network_help(args: list[str]) -> str:
    """The help of the settings of the network that arguments name."""
    named = re.findall(r"--model\.network[= ](?:\{ *name: *)?(\w+)", " ".join(args))
    if not named or named[-1] not in NETWORKS or named[-1] == "mlp":
        return f"\nSettings of another network: add --model.network NAME, one of {', '.join(NETWORKS)}.\n"
    parser = ArgumentParser()
    parser.add_class_arguments(network_class(named[-1]), "model.network", skip={2})
    lines = parser.format_help().splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("--model.network."))
    return "\n".join([f"\nNetwork {named[-1]}:", *lines[start:], ""])
