"""The settings of a network: all of them, checked by the types of its constructor."""

from inspect import signature
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveInt

from namemlp import NETWORKS
from namemlp.errors import UserError, shorten
from namemlp.module import NameModule
from namemlp.network import Settings, network_class, network_settings

MLP_SETTINGS = ("embedding_dim", "hidden_size", "dropout", "init")


def complete_network(hparams: dict[str, Any]) -> Settings:
    """The network of a model's settings, where it has a name with all of its own. Raises: UserError: they are wrong."""
    network = hparams["network"]
    if network == "mlp":
        return network
    for name in MLP_SETTINGS:
        if hparams[name] != signature(NameModule).parameters[name].default:
            raise UserError(f"model.{name} is a setting of the network mlp: omit it, or give model.network.{name}")
    name = network if isinstance(network, str) else network.get("name")
    if name not in NETWORKS:
        return network
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(network_class(name), skip={2})  # V and T are not settings
    try:
        settings = parser.parse_object(network_settings(network)).as_dict()
    except ArgumentError as error:
        raise UserError(f"network {name} does not take its settings: {shorten(str(error))}") from error
    return {"name": name} | {
        key: int(value) if type(value) is PositiveInt else value for key, value in settings.items()
    }
