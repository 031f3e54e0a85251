"""The options --config, --dataset and -o, as all commands have them."""
from __future__ import annotations

from typing import Any, Callable


def add_config_options(add: Callable[..., Any], default: str | None = None, example: str = "max_size=400") -> None:
    """Give a parser the options that choose the config.

    Args:
        add: the parser's add_argument. default: name of a config; None: that of the weights. example: of an override.
    """
    of_weights = "the one saved with the weights, else the one that their file is named after"
    add("--config", default=default, help=f"a config of data/config.py (default: {default or of_weights})")
    add("--dataset", help="a data set of data/config.py that replaces the config's")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help=f"change config keys, nested with dots: -o {example}")
