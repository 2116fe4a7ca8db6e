"""`fedrec forget`: a user leaves everything that an institution keeps."""

from __future__ import annotations

from pathlib import Path

import click

from fedrec.cli.output import emit, json_option
from fedrec.cli.site import folder_argument


@click.command()
@folder_argument
@click.option("--user", required=True, metavar="ID", help="The user's id as in the institution's data.")
@json_option
def forget(folder: Path, user: str, target: str | None) -> None:
    """Remove a user of DIR from store, private parameters, lists and every later intake, and print a receipt.

    The site must not run. Permits for the data of before need another approval. The institution's own source keeps
    the user's rows until they are deleted there.
    """
    from fedrec.institution.forgetting import forget as remove

    done = remove(folder, user)
    text = (
        f"forgotten: {done['rows']} rows, {done['versions']} versions of the data, {done['models']} published models, "
        f"private parameters of {done['requests']} requests; data version {done['version']}, "
        f"event {done['event']} of the audit log"
    )
    emit(done, target, text=text)
