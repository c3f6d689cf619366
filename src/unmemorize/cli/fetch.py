"""The commands ``fetch ...``."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from unmemorize._errors import FetchError
from unmemorize._prompt_files import read_prompts
from unmemorize.cli._console import print_answer, print_hint, print_line, show_progress
from unmemorize.cli._groups import OPTIONS
from unmemorize.metrics import SSCD_SHA256, SSCD_URL, download, fetch_images

app = App(
    name="fetch",
    help="Download published weights and training images.",
    group_parameters=OPTIONS,
)


@app.command
def sscd(
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("sscd_disc_mixup.torchscript.pt"),
) -> None:
    """Download the copy descriptor of the paper's metrics (99 MB).

    SSCD (Pizzi et al., CVPR 2022) comes from its published address, and its hash is checked. An
    interrupted download resumes.

    Args:
        output: File to write.
    """
    with show_progress("fetch sscd") as progress:
        download(SSCD_URL, output, sha256=SSCD_SHA256, progress=progress)
    print_line(f"{output} (sha256 {SSCD_SHA256})")
    print_answer(file=output, sha256=SSCD_SHA256)
    print_hint("unmemorize evaluate RUN --sscd", output)


@app.command
def images(prompts: Path, /, *, output: Annotated[Path, Parameter(alias="-o")]) -> None:
    """Download the training images of a prompt file from their addresses.

    The name of each image holds the index of its prompt, counted from 0, and tells its address.
    Many published addresses are dead: failures are listed, and the same command tries only those
    again.

    Args:
        prompts: Prompt file with a column URL or urls.
        output: Folder for the images.
    """
    given = read_prompts(prompts)
    if not any(prompt.url or prompt.more_urls for prompt in given):
        raise FetchError(f"{prompts}: no prompt has an address. Its column is URL or urls.")
    with show_progress("fetch images") as progress:
        fetched = fetch_images(given, output, progress=progress)
    print_line(
        f"{fetched.available} of {len(given)} images in {output}, {len(fetched.failed)} failed"
    )
    for index, problem in fetched.failed.items():
        print_line(f"{index:04d}: {problem}", style="dim")
    print_answer(
        prompts=len(given), available=fetched.available, failed=fetched.failed, folder=output
    )
    if fetched.failed and not fetched.available:
        raise FetchError("no image could be downloaded. Is there a network?")
    print_hint("unmemorize evaluate RUN --references", output)
