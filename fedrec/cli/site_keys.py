"""`fedrec site keys`: the site's own key, and the one that the institutions share for encrypted sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedrec.cli.output import emit, json_option
from fedrec.errors import WrongInput


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--share",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a file for each other member: the shared key of encrypted sums, which nobody else can open.",
)
@click.option(
    "--take",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Keep the shared key from a file that the consortium's first member wrote for this institution.",
)
@click.option("--rotate", is_flag=True, help="With --share: make a new shared key first; every member takes it again.")
@click.option(
    "--renew", is_flag=True, help="Make the site's own key anew; the old one signs the change. Stop the site first."
)
@json_option
def keys(folder: Path, share: Path | None, take: Path | None, rotate: bool, renew: bool, target: str | None) -> None:
    """Print the public key of DIR's site, as consortium.toml pins it; makes the keys at the first call.

    And the name of the shared key of encrypted sums, if there is one: compare it with the other institutions'.
    """
    from fedrec.institution import shared_key, signing_key
    from fedrec.institution.site import Keys

    if sum(map(bool, (share, take, renew))) > 1 or (rotate and not share):
        raise WrongInput("give one of --share FOLDER (and --rotate), --take FILE, --renew")
    if renew:
        said = signing_key.renew(folder)
        emit(said, target, text=f"{said['key']}\nformer key {said['former'][0]}\n{signing_key.NEXT}")
    elif share:
        said = shared_key.share(folder, share, new=rotate)
        emit(said, target, text=f"shared key {said['number']}, {said['id']}\nin {share}: for {', '.join(said['for'])}")
    elif take:
        said = shared_key.take(folder, take)
        emit(said, target, text=f"shared key {said['number']}, {said['id']}")
    else:
        key, shared = Keys.load_or_make(folder / "state").public, shared_key.SharedKey.load(folder / "state")
        facts: dict[str, Any] = {"key": key} | ({"shared": shared.id, "number": shared.number} if shared else {})
        emit(facts, target, text=key + (f"\nshared key {shared.number}, {shared.id}" if shared else ""))
