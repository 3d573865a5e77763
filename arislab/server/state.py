"""What a request finds of the server that it came to; ``app`` puts it there."""

from fastapi import Request

from arislab.server.aliases import Aliases
from arislab.server.engines.base import Engine
from arislab.server.limits import Limits
from arislab.server.runner import Runner
from arislab.server.store import Store


def store_of(request: Request) -> Store:
    """The server's store."""
    store: Store = request.app.state.store
    return store


def engine_of(request: Request) -> Engine:
    """The server's engine."""
    engine: Engine = request.app.state.engine
    return engine


def runner_of(request: Request) -> Runner:
    """The server's runner."""
    runner: Runner = request.app.state.runner
    return runner


def aliases_of(request: Request) -> Aliases:
    """The server's aliases."""
    aliases: Aliases = request.app.state.runner.aliases
    return aliases


def limits_of(request: Request) -> Limits:
    """The server's limits."""
    limits: Limits = request.app.state.limits
    return limits
