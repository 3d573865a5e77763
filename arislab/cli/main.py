"""The ``arislab`` command. Each verb joins the package with the lake; what decides a result stands in the notebooks."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from arislab.cli import batch as batch_commands
from arislab.cli import exports as export_commands
from arislab.cli import imports as import_commands
from arislab.cli import lake as lake_commands
from arislab.cli import models as model_commands
from arislab.cli import runs as run_commands
from arislab.cli.demo import demo
from arislab.cli.doctor import doctor
from arislab.cli.forget import forget
from arislab.cli.init import init
from arislab.cli.lab import PASSED_ON, lab
from arislab.cli.options import Root
from arislab.cli.review import review
from arislab.cli.runs import perform
from arislab.cli.serve import serve
from arislab.system.paths import enter
from arislab.system.text import print


def run(
    context: typer.Context,
    phase: Annotated[
        str | None,
        typer.Argument(help="generate, curate, icl, finetune, evaluate; judge, prefer, deploy; or FILE.ipynb."),
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="A parameter of the notebook; repeat it.")
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Option("-f", help="YAML file with parameters; -p goes before it; repeat it.")
    ] = None,
    root: Root = None,
    timeout_s: Annotated[float | None, typer.Option("--timeout", min=1, help="Longest run, seconds.")] = None,
    cell_timeout_s: Annotated[
        float | None, typer.Option("--cell-timeout", min=1, help="Longest cell, seconds.")
    ] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run of this phase to end.")] = False,
    show_help: Annotated[bool, typer.Option("--help", help="Of a phase: its parameters.")] = False,
) -> None:
    """Run one phase as a recorded run; `arislab run PHASE --help` lists its parameters."""
    if phase is None or show_help:
        print(context.get_help() if phase is None else run_commands.help_of(phase))
        raise typer.Exit(0 if show_help else 2)
    given, origin = run_commands.given(parameters or (), files or ())
    limits: dict[str, Any] = {"timeout_s": timeout_s, "cell_timeout_s": cell_timeout_s}
    perform(phase, given, enter(root), given_from=origin, wait=wait, **limits)


class _InOrder(TyperGroup):
    """A command whose help lists commands and groups of commands as ``_VERBS`` has them, not groups last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer has a copy of click
        return [name for verbs in _VERBS.values() for name in verbs]


_VERBS: dict[str, dict[str, tuple[Any, str]]] = {
    "Lab": {
        "init": (init, "Make a lab of your own; bring one up to date (--update)."),
        "demo": (demo, "Run the five phases, with a tiny model or a real one: no GPU."),
        "lab": (lab, "Open notebooks and records of a root in JupyterLab."),
        "review": (review, "Serve the review panel to people without Jupyter."),
    },
    "Phases": {
        "run": (run, "Run a phase, or judge, prefer or deploy."),
        "resume": (run_commands.resume, "Go on from a run that did not end well."),
    },
    "Data": {
        "import": (import_commands.import_file, "Bring candidates, or outputs recorded elsewhere."),
        "candidates": (lake_commands.candidates, "Compose synthetic candidates for the embedded model."),
        "check": (lake_commands.check, "Look for leaks between the splits, before phase 1."),
        "sql": (lake_commands.sql, "Ask the lake in SQL."),
        "lineage": (lake_commands.lineage, "Show the life of a row, from candidate to test answers."),
        "export": (export_commands.export, "Write examples or a model for other programs."),
        "forget": (forget, "Take a candidate out of everything; a receipt stays."),
        "doctor": (doctor, "Say what is installed, what answers, and if the lake is whole."),
    },
    "Records": {
        "runs": (run_commands.app, "List runs; show one, compare two, export one."),
        "verify": (run_commands.verify, "Check that a record is true: run again and compared."),
        "rerun": (run_commands.rerun, "Run a recorded run again from its record."),
    },
    "Models": {
        "models": (model_commands.app, "List model versions; show one, its history, compare two."),
        "promote": (model_commands.promote, "Let an alias name a version that the gate let pass."),
        "rollback": (model_commands.rollback, "Go back to the version before, at every server."),
        "retire": (model_commands.retire, "Say that a version is never promoted again."),
    },
    "Server": {
        "serve": (serve, "Serve Files + Batches over a model or any chat server."),
        "batch": (batch_commands.app, "Send a file of requests through any such server."),
    },
}
"""What the help lists, in its order: panel -> name -> (function or group, what it does in one line)."""
_SETTINGS: dict[str, dict[str, Any]] = {"lab": PASSED_ON, "run": {"help_option_names": []}}

app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn batch LLM output into training data you can defend.",
    epilog="Every verb takes --lake URL, or ARISLAB_LAKE: tables below s3://BUCKET/PATH, gs://…, az://… or abfss://…, "
    "with keys and endpoint from AWS_…, GOOGLE_… or AZURE_… variables. Models, batches, exports and review journals "
    "stay in data/ of the root.",
)
for panel, verbs in _VERBS.items():
    for name, (verb, line) in verbs.items():
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name, short_help=line, rich_help_panel=panel)
        else:
            app.command(name, short_help=line, rich_help_panel=panel, context_settings=_SETTINGS.get(name))(verb)


def joined(arguments: list[str]) -> list[str]:
    """Write ``-p NAME VALUE`` as ``-p NAME=VALUE``: the parser knows options with one value only."""
    out, rest = [], list(arguments)
    while rest:
        out.append(rest.pop(0))
        if out[-1] == "-p" and len(rest) > 1 and "=" not in rest[0]:
            out.append(f"{rest.pop(0)}={rest.pop(0)}")
    return out
