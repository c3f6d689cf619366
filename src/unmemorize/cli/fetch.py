"""The commands ``fetch ...``."""

from pathlib import Path
from typing import Annotated

import typer

from unmemorize._errors import FetchError
from unmemorize._prompts import read_prompts
from unmemorize.cli._console import console, progress_bar
from unmemorize.metrics import SSCD_SHA256, SSCD_URL, download, fetch_images

app = typer.Typer(
    help="Download what others publish; an interrupted download goes on.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def sscd(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to put it.")] = Path(
        "sscd_disc_mixup.torchscript.pt"
    ),
) -> None:
    """The copy descriptor of the paper's metrics (Pizzi et al., CVPR 2022; 99 MB) from its published address, checked by its hash.

    Give it to unmemorize evaluate with --sscd.
    """
    with progress_bar("fetch sscd") as progress:
        download(SSCD_URL, output, sha256=SSCD_SHA256, progress=progress)
    console.print(f"{output} (sha256 {SSCD_SHA256})")


@app.command()
def images(
    prompts: Annotated[
        Path, typer.Argument(help="Prompt file with a column URL.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")],
) -> None:
    """The training images of a prompt file by their addresses, numbered like its rows; for unmemorize evaluate --references.

    Many published addresses are dead: what fails is listed, and the same command tries only that again.
    """
    given = read_prompts(prompts)
    with progress_bar("fetch images") as progress:
        fetched = fetch_images(given, output, progress=progress)
    for number, problem in fetched.failed.items():
        console.print(f"{number:04d}: {problem}", style="dim")
    console.print(
        f"{fetched.available} of {len(given)} images in {output}, {len(fetched.failed)} failed"
    )
    if fetched.failed and not fetched.available:
        raise FetchError("no image could be downloaded. Is there a network?")
