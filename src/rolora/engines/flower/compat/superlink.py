"""Flower's SuperLink as an application."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp

from rolora.engines.flower.compat import known_flower

with known_flower():
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.supercore.logger import console_handler
    from flwr.superlink.cli.flower_superlink import (
        SuperLinkLifespan,
        _parse_superlink_lifespan_config,
    )
    from flwr.superlink.main import create_app


def superlink_of_command_line() -> tuple[ASGIApp, dict[str, Any]]:
    """The SuperLink for this program's command line, which has the options of
    ``flower-superlink``, and how uvicorn is to serve it.
    """
    config = _parse_superlink_lifespan_config()
    serving = {
        "host": config.host,
        "port": config.port,
        "log_config": get_uvicorn_log_config(console_handler.level),
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_certfile": config.ssl_certfile,
    }
    return create_app(config, SuperLinkLifespan), serving
