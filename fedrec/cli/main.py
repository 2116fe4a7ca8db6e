"""`fedrec`: the commands, and what becomes of an error."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import click

from fedrec import __version__
from fedrec.errors import FedrecError

_HOME = {  # command → module below fedrec.cli; a command's libraries load when it is used
    "audit": "audit",
    "benchmark": "benchmark",
    "catalogue": "catalogue",
    "data": "data",
    "demo": "demo",
    "evaluate": "evaluate",
    "forget": "forget",
    "lab": "lab",
    "recommend": "recommend",
    "requests": "requests",
    "run": "run",
    "site": "site",
}


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_HOME)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in _HOME:
            return None
        command: click.Command = getattr(importlib.import_module(f"fedrec.cli.{_HOME[name]}"), name)
        return command


@click.command(cls=_Commands)
@click.version_option(__version__)
def cli() -> None:
    """A cross-silo federated recommender on PySyft datasites."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Exit codes: 0 done, 2 wrong input, 3 refused, 130 Ctrl-C, 1 our bug (with its traceback)."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(ending, _terminated)
    try:
        sys.exit(cli.main(arguments, standalone_mode=False) or 0)
    except FedrecError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        _say(error.format_message() + (f" (see {context.command_path} --help)" if context else ""))
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # everything is cleared up; only the exit is left
            signal.signal(ending, signal.SIG_IGN)
        _say("stopped")
        sys.exit(130)


def _terminated(*_: Any) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    click.echo(f"fedrec: {text}", err=True)
