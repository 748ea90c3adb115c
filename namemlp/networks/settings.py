"""The settings of a network: its name and all of its own, checked by the types of its constructor."""

import json
from inspect import signature
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from namemlp import NETWORKS
from namemlp.errors import UserError, shorten
from namemlp.module import NameModule
from namemlp.network import Settings, init_args, network_class, network_settings

MLP_SETTINGS = ("embedding_dim", "hidden_size", "dropout", "init")


def complete_network(hparams: dict[str, Any]) -> Settings:
    """The network of a model's settings as mlp, or as {name, its settings}. Raises: UserError: they are wrong."""
    name, settings = split_network(hparams["network"])
    if name == "mlp":
        for option in settings:
            raise UserError(f"model.network.{option}: the network is mlp, whose settings are the model's own")
        return name
    for option in MLP_SETTINGS:
        if hparams[option] != signature(NameModule).parameters[option].default:
            way_out = f"omit it; the settings of {name} are under model.network"
            raise UserError(f"model.{option} is a setting of the network mlp: {way_out}")
    if name in NETWORKS:
        settings = check_settings(name, settings)
    elif "." not in name:
        raise UserError(
            f"model.network is {name}: use one of {', '.join(NETWORKS)}, or the path of a class of your own"
        )
    return {"name": name, **settings}


def split_network(network: Any) -> tuple[str, dict[str, Any]]:
    """The name of a network, in NETWORKS if it is there, and its settings. Raises: UserError: it has no name."""
    name, settings = network, {}
    if isinstance(network, dict):
        name = network.get("name") or network.get("class_path")
        settings = network_settings(network) if "name" in network else init_args(network)
    if not isinstance(name, str):
        raise UserError(f"model.network is {network}: give a name, or a mapping with name and settings")
    paths = {path: short for short, path in NETWORKS.items()}
    return paths.get(name, name), settings


def check_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All settings of a network as plain values. Raises: UserError: one is unknown, or not of its type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(network_class(name), skip={2})  # V and T are not settings
    known = parser.get_defaults()
    for option, value in settings.items():
        if option not in known:
            raise UserError(f"model.network.{option}: {name} has no such setting, but {', '.join(known.keys())}")
        try:
            if value is None:
                raise ArgumentError(None, "null")
            parser.parse_object({option: value}, defaults=False)
        except (ArgumentError, RecursionError) as error:
            way_out = f"see `namemlp fit --model.network {name} --help`"
            raise UserError(f"invalid value {shorten(str(value))} for model.network.{option}: {way_out}") from error
    return json.loads(json.dumps(parser.parse_object(settings).as_dict()))  # without jsonargparse's types of numbers
