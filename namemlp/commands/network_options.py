"""`--model.network.NAME VALUE`: the settings of the network that is chosen, and their help."""

import json
import re
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from namemlp import NETWORKS
from namemlp.errors import UserError
from namemlp.network import init_args, network_class

OPTION = re.compile(r"--model\.network\.(?:init_args\.)?(\w+)(?:=(.*))?", re.DOTALL)


def split_options(args: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The other arguments, and the settings of the network that are among them."""
    rest, options, args = [], {}, [*args]
    while args:
        arg = args.pop(0)
        if match := OPTION.fullmatch(arg):
            name, value = match.groups()
            if value is None:
                value = args.pop(0) if args and not args[0].startswith("--") else "true"
            options[name] = yaml.safe_load(value)
        else:
            rest.append(arg)
    return rest, options


def network_option(network: str | dict[str, Any], options: dict[str, Any]) -> str:
    """A network with further settings as one argument. Raises: UserError: it is mlp, whose settings are the model's."""
    network = {"name": network} if isinstance(network, str) else network
    if network.get("name") == "mlp":
        option = next(iter(options))
        raise UserError(
            f"model.network.{option}: the network is mlp, whose settings are the model's: as model.{option}"
        )
    if "class_path" in network:
        return "--model.network=" + json.dumps({**network, "init_args": {**init_args(network), **options}})
    return "--model.network=" + json.dumps({**network, **options})


def network_help(args: list[str]) -> str:
    """The help of the settings of the network that arguments name."""
    joined = " ".join(args)
    named = re.findall(r"--model\.network[= ](\w+)", joined)
    if not named or named[-1] not in NETWORKS or named[-1] == "mlp":
        return f"Settings of another network: add --model.network NAME, one of {', '.join(NETWORKS)}."
    parser = ArgumentParser()
    parser.add_class_arguments(network_class(named[-1]), "model.network", skip={2})
    lines = parser.format_help().splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("--model.network."))
    return "\n".join([f"Network {named[-1]}:", *lines[start:]])
