"""The command line: ``rolora run``, ``compare``, ``report``, ``server``, ``client`` and others.

Exit codes: 0 done; 2 bad input, with one message; 1 failure while running; 130 interrupted, 143
ended by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from rolora.cli import ask, begin
from rolora.cli.chat import chat
from rolora.cli.watch import watch
from rolora.core.errors import BadInput, RunFailed
from rolora.core.memory import keep_few_products

if TYPE_CHECKING:
    from rolora.engines.flower.settings import SiteConfig

N = TypeVar("N", int, float)

app = typer.Typer(
    help="Federated LoRA fine-tuning by alternating optimisation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ConfigPath = Annotated[
    Path,
    typer.Argument(help="A YAML config, or a preset's name (rolora presets).", metavar="CONFIG"),
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Argument(help="Settings that replace the config's.", metavar="[key.path=value]..."),
]
Out = Annotated[Optional[Path], typer.Option("--out", help="Directory to write.")]  # noqa: UP045
Settings = Annotated[Path, typer.Option("--config", help="A YAML file.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Go without TLS and keys, also over a network.")
]
Federation = Annotated[
    Path, typer.Argument(help="What rolora federation init wrote.", metavar="DIR")
]
federation = typer.Typer(help="Runs across machines.", no_args_is_help=True)
app.add_typer(federation, name="federation", rich_help_panel="Across machines")
RunPath = Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")]

BEGIN, RUN, USE = "To begin", "Runs", "What a run left"
ACROSS = "Across machines"
app.command(rich_help_panel=BEGIN)(begin.init)
app.command("presets", rich_help_panel=BEGIN)(begin.show_presets)
app.command(rich_help_panel=BEGIN)(begin.doctor)


@app.callback()
def top(version: begin.Version = False) -> None:
    """What may stand before a command."""


@app.command(rich_help_panel=RUN)
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or the last one.")
    ] = False,
    start_over: Annotated[
        bool,
        typer.Option("--start-over", help="Drop the run that --out holds; begin at round 1."),
    ] = False,
) -> None:
    """Run a federation and leave a run directory with metrics, adapter and report."""
    from rolora.callbacks import Terminal
    from rolora.cli.display import summary_table
    from rolora.config import load_config
    from rolora.library.runs import default_directory
    from rolora.library.runs import run as carry_out

    console = Console()
    settings = load_config(config, overrides or ())
    directory = out or default_directory(config.stem, resume or start_over)
    again = ["rolora", "run", str(config), *(overrides or ()), "--out", str(directory), "--resume"]
    with ending_on_signals(console, f"Go on with:\n  {shlex.join(again)}"):
        done = carry_out(
            settings,
            out=directory,
            resume=resume,
            start_over=start_over,
            callbacks=[Terminal(console)],
            show=False,
            command=command(),
        )
    console.print(summary_table(done.summary, directory))


@app.command(rich_help_panel=RUN)
def compare(
    config: ConfigPath,
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Names, separated by commas.")
    ] = "rolora,ffa_lora,fedit,flexlora",
    seeds: Annotated[str, typer.Option("--seeds", help="Numbers, separated by commas.")] = "0,1,2",
    target: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--target", help="The validation score for which bytes are counted."),
    ] = None,
    out: Out = None,
) -> None:
    """Run several methods on the same partitions, cohorts and base model, and compare them.

    Run again with the same --out, it goes on where it was.
    """
    from rolora.callbacks import Terminal
    from rolora.config import load_config
    from rolora.library.runs import compare as carry_out
    from rolora.report.compare_report import comparison_table

    console = Console()
    settings = load_config(config, overrides or ())
    directory = out or Path("runs") / f"{config.stem}-compare"
    with ending_on_signals(console, "Run the same command again to go on."):
        carry_out(
            settings,
            methods=names_of(methods),
            seeds=seed_list(seeds),
            out=directory,
            watched=lambda which: Terminal(console, which),
            target=target,
            command=command(),
        )
    console.print(comparison_table(directory))
    console.print(f"table, numbers and curves: {directory}/comparison.md, .json, .png")


@app.command(rich_help_panel=RUN)
def tune(
    config: ConfigPath,
    overrides: Overrides = None,
    methods: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--methods", help="Names, separated by commas; else the config's own."),
    ] = None,
    rates: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--rates", help="To begin with; else five around the config's own."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", help="At which rates are compared; two at least.")
    ] = "100,101",
    out: Out = None,
) -> None:
    """Find a learning rate for each method on validation examples.

    Run again with the same --out, it goes on where it was.
    """
    from rolora.cli.display import tuning_table
    from rolora.config import load_config
    from rolora.library.runs import tune as carry_out

    console = Console()
    settings = load_config(config, overrides or ())
    directory = out or Path("runs") / f"{config.stem}-tune"
    with ending_on_signals(console, "Run the same command again to go on."):
        found = carry_out(
            settings,
            methods=names_of(methods) if methods else None,
            rates=None if rates is None else number_list("--rates", rates, float),
            seeds=seed_list(seeds),
            out=directory,
            notice=lambda text: console.print(text, highlight=False, markup=False),
            command=command(),
        )
    console.print(tuning_table(found.tuning))
    console.print(
        f"configs with the rates, numbers, figure: {directory}/METHOD.yaml, tuning.json, .png",
        soft_wrap=True,
    )


@app.command(rich_help_panel=RUN)
def attack(
    config: ConfigPath,
    overrides: Overrides = None,
    attack: Annotated[
        str, typer.Option("--attack", help="A name; a wrong one lists them.")
    ] = "sign_flip",
    fraction: Annotated[float, typer.Option("--fraction", help="Of the clients.")] = 0.2,
    seeds: Annotated[str, typer.Option("--seeds", help="Numbers, separated by commas.")] = "0",
) -> None:
    """Try a run in the simulator with some clients hostile, beside the same run without."""
    from rolora.attacks import attack_named
    from rolora.attacks.trial import tried
    from rolora.cli.display import trials_table
    from rolora.config import load_config

    settings, chosen = load_config(config, overrides or ()), attack_named(attack)
    trials = list(tried(settings, chosen, fraction, seed_list(seeds), notice=_warn))
    Console().print(trials_table(chosen, settings, trials))


app.command(rich_help_panel=RUN)(watch)


@app.command(rich_help_panel=BEGIN)
def methods() -> None:
    """List the methods: what travels, whether aggregation is exact, where they come from."""
    from rolora.cli.display import methods_table

    Console().print(methods_table())


@app.command(rich_help_panel=USE)
def report(run: RunPath) -> None:
    """Build a run's report again."""
    from rolora.report.run_report import write_report

    Console().print(str(write_report(run)), soft_wrap=True)


app.command(rich_help_panel=USE)(ask.predict)
app.command(rich_help_panel=USE)(ask.evaluate)
app.command(rich_help_panel=USE)(chat)


@app.command(rich_help_panel=USE)
def export(
    run: RunPath,
    merge: Annotated[Path, typer.Option("--merge", help="Directory for the merged model.")],
) -> None:
    """Merge a run's adapter into its base model, loadable by from_pretrained."""
    from rolora.library.finished import Run

    written = Run(run, notice=_warn).export(merge)
    Console().print(f"merged model: {written}", soft_wrap=True)


@app.command(rich_help_panel=BEGIN)
def validate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Say what a config would run, without training."""
    from rolora.cli.display import plan_table
    from rolora.config import load_config
    from rolora.library.plan import plan_of

    Console().print(plan_table(plan_of(load_config(config, overrides or ()), notice=_warn)))


@app.command(rich_help_panel=ACROSS)
def server(config: Settings = Path("server.yaml"), insecure: Insecure = False) -> None:
    """Take in the sites of a federation; runs are started beside it with rolora run."""
    from rolora.engines.flower.serve import serve_server
    from rolora.engines.flower.settings import ServerConfig, load_settings

    _serve(lambda notice: serve_server(load_settings(ServerConfig, config), insecure, notice))


@app.command(rich_help_panel=ACROSS)
def client(
    config: Settings = Path("site.yaml"),
    insecure: Insecure = False,
    show: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--show", help="Say what the run of this YAML would take; join nothing."),
    ] = None,
) -> None:
    """Take part in a federation's runs with this site's own data, which stay here."""
    from rolora.engines.flower.serve import serve_client
    from rolora.engines.flower.settings import SiteConfig, load_settings

    if show is not None:
        _show(load_settings(SiteConfig, config), show)
    else:
        _serve(lambda notice: serve_client(load_settings(SiteConfig, config), insecure, notice))


@federation.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Directory to write.", metavar="DIR")],
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="The run's YAML config, or a preset.", metavar="[CONFIG]"),
    ] = None,
    sites: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--sites", help="Number of sites; else the config's federation.clients."),
    ] = None,
    address: Annotated[
        str, typer.Option("--address", help="Where sites reach the server, as host:port.")
    ] = "127.0.0.1:9092",
    one_machine: Annotated[
        bool, typer.Option("--one-machine", help="Sites share the config's data, to try it out.")
    ] = False,
    insecure: Insecure = False,
) -> None:
    """Write a federation: the run, the server, its sites, certificates, keys and a runbook."""
    from rolora.engines.flower.project import write_project

    written = write_project(directory, config, sites, address, one_machine, insecure)
    Console().print(f"{written} holds what to do next", soft_wrap=True)


@federation.command()
def renew(
    directory: Federation,
    address: Annotated[str, typer.Option("--address", help="Where sites reach the server.")],
) -> None:
    """Give the server a new certificate, for an old one that ends or for another address."""
    from rolora.engines.flower.project import renew_certificate

    written = renew_certificate(directory, address)
    Console().print(f"{written} is for {address}; start rolora server again", soft_wrap=True)


@federation.command()
def rekey(
    directory: Federation,
    site: Annotated[int, typer.Argument(help="The site's number.", metavar="SITE")],
) -> None:
    """Give a site a new key, for one that is lost; the old one is not let in any more."""
    from rolora.engines.flower.project import replace_key

    written = replace_key(directory, site)
    said = f"{written} is for the site; start rolora server again"
    if any(directory.glob(f"site-*/peers/site-{site}.pub")):
        said += f"; the others are to have the new peers/site-{site}.pub"
    Console().print(said, soft_wrap=True, highlight=False)


def _show(site: SiteConfig, run: Path) -> None:
    """What a run would take of a site; exit code 2 where the site's policy refuses it."""
    from rolora.cli.display import taken_table
    from rolora.config import load_config
    from rolora.engines.flower.settings import require_flower
    from rolora.library.taken import taken

    require_flower()
    found = taken(site, load_config(run))
    Console().print(taken_table(found))
    if found.refused:
        raise typer.Exit(2)


def _serve(serve: Callable[[Callable[[str], None]], None]) -> None:
    console = Console()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        serve(lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        console.print("stopped")
        raise typer.Exit(130) from None


@contextmanager
def ending_on_signals(console: Console, how: str) -> Iterator[None]:
    """End in order on Ctrl-C, SIGTERM and SIGHUP, and say `how` to go on."""
    from rolora.records.shield import Interrupted, interruptible

    with interruptible():
        try:
            yield
        except KeyboardInterrupt as error:
            with suppress(OSError):  # a terminal that is gone
                console.print(
                    f"\n[yellow]interrupted; every finished round is kept.[/] {escape(how)}",
                    soft_wrap=True,
                )
            code = error.exit_code if isinstance(error, Interrupted) else 130
            raise typer.Exit(code) from None


def _warn(text: str) -> None:
    Console().print(text, style="yellow", highlight=False, markup=False)


def names_of(text: str) -> list[str]:
    """``rolora,fedit`` as names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def number_list(option: str, text: str, kind: type[N]) -> list[N]:
    """``0,1,2`` as numbers.

    Raises:
        BadInput: not numbers, or none.
    """
    try:
        return [kind(item) for item in text.split(",")]
    except ValueError:
        whole = "whole " if kind is int else ""
        raise BadInput(f"{option} {text!r}: must be {whole}numbers separated by commas") from None


def seed_list(text: str) -> list[int]:
    """``0,1,2`` as seeds.

    Raises:
        BadInput: not numbers, or none.
    """
    seeds = number_list("--seeds", text, int)
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds {text!r}: must be different numbers, none below 0")
    return seeds


def command() -> str:
    """The command as it was typed, without the path of the program."""
    return shlex.join(["rolora", *sys.argv[1:]])


def main() -> None:
    """Run the command line, and set what its process keeps."""
    keep_few_products()
    guarded(app)


def guarded(command_line: Callable[[], object]) -> None:
    """Run a command line and turn errors into messages and exit codes."""
    errors = Console(stderr=True)
    try:
        command_line()
    except BadInput as error:
        errors.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except (RunFailed, OSError) as error:
        errors.print(f"[bold red]failed:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _plain(error: Exception) -> str:
    return escape(str(error))
