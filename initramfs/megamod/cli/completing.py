"""`megamod completion`, and what a shell is offered at TAB: profiles, kernels, modules, stages, files.

Everything here runs while somebody waits at a prompt: it reads folders and small files, and ignores errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from megamod.common.errors import MegamodError

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_MEGAMOD_COMPLETE"
_NO_PROFILES = ("sets.yaml",)


def profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shipped profiles and the YAML files here; a path is completed as a file."""
    from megamod.common.host import data_folder

    shipped = {path.stem for path in data_folder("profiles").glob("*.yaml") if path.name not in _NO_PROFILES}
    own = {path.name for path in _entries(Path()) if path.suffix in (".yaml", ".yml")}
    return offers({**dict.fromkeys(own, ""), **dict.fromkeys(shipped, "shipped with megamod")}, incomplete, "file")


def kernels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The kernels of this machine; a path is completed as a folder."""
    found = {path.name for folder in _MODULES for path in _entries(folder) if (path / "modules.order").exists()}
    return offers(dict.fromkeys(found, ""), incomplete, "dir")


def modules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The modules of the kernel that the command line names, or the running one."""
    kernel = next(iter(ctx.params.get("kernels") or ()), None) or ctx.params.get("kernel") or os.uname().release
    folders = [Path(kernel), *(Path(kernel, inner, os.uname().release) for inner in ("lib/modules", "usr/lib/modules"))]
    for folder in [*(folder / kernel for folder in _MODULES), *folders]:
        try:
            text = (folder / "modules.dep").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        names = {line.split(":", 1)[0].rsplit("/", 1)[-1].split(".ko", 1)[0] for line in text.splitlines()}
        return offers(dict.fromkeys(names, ""), incomplete, "")
    return []


def limits(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`--budget`: the names of limits, with the stages of the image that the command line names."""
    before, comma, last = incomplete.rpartition(",")
    names = ["critical", "userspace", "boot", *_stages(ctx.params.get("image"))]
    return [CompletionItem(f"{before}{comma}{name}=") for name in dict.fromkeys(names) if name.startswith(last)]


_MODULES = (Path("/lib/modules"), Path("/usr/lib/modules"))


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return


def offers(known: Mapping[str, str], incomplete: str, otherwise: str) -> list[CompletionItem]:
    """Those of *known* that begin so, with their help; if there is none, the files or folders that the shell finds."""
    found = [CompletionItem(name, help=known[name] or None) for name in sorted(known) if name.startswith(incomplete)]
    return found or ([CompletionItem(incomplete, type=otherwise)] if otherwise else [])


def _stages(image: Any) -> Iterable[str]:
    if image is None:
        return []
    try:
        from megamod.build.manifest import MANIFEST_PATH, Manifest
        from megamod.inspect.image_files import image_files

        entry = image_files(Path(image))[MANIFEST_PATH]
        return [stage.name for stage in Manifest.from_json(entry.data, source=str(image)).stages]
    except Exception:
        return []


def script_of(shell: str) -> str:
    """The script that turns completion on in *shell*."""
    kind = get_completion_class(shell)
    assert kind is not None
    # Not the class's own method, which asks for the version of a bash that this machine need not have.
    text = ShellComplete.source(kind(click.Group(), {}, "megamod", _VARIABLE))
    # click's test is true for the first TAB only: the second would find nothing.
    return text.replace("$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _megamod")


def script_path(shell: str) -> Path:
    """Where *shell* looks for the user's own completions."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    if shell == "bash":
        return Path(os.environ.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion") / "completions/megamod"
    if shell == "zsh":
        return data / "zsh/site-functions/_megamod"
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/megamod.fish"


@click.command()
@click.argument("shell", required=False, type=click.Choice(SHELLS))
@click.option("--install", is_flag=True, help="Write it to where the shell looks for completions of this user.")
def completion(*, shell: str | None, install: bool) -> None:
    """Print or install the completion of a shell.

    SHELL is bash, zsh or fish; the one of $SHELL if it is left out.
    """
    from megamod.common.files import atomic_write

    if shell is None:
        shell = Path(os.environ.get("SHELL", "")).name
        if shell not in SHELLS:
            raise MegamodError(f"no completion for {shell or 'this shell'}", hint=f"name one of {', '.join(SHELLS)}")
    text = script_of(shell)
    if not install:
        click.echo(text.rstrip("\n"))
        return
    path = script_path(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MegamodError(f"{path.parent}: {error.strerror}") from None
    atomic_write(path, text.encode())
    click.echo(f"{path}: installed; open a new {shell}")
    if shell == "bash":
        click.echo("bash reads it if the package bash-completion is installed")
    elif shell == "zsh":
        click.echo(f"zsh reads it if ~/.zshrc has: fpath=({path.parent} $fpath); autoload -U compinit; compinit")
