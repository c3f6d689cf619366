"""The command ``import-upstream``."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from unmemorize._errors import PromptError
from unmemorize._prompt_files import read_prompts
from unmemorize.cli._console import print_answer, print_hint, print_line
from unmemorize.cli._model_options import LoadingOptions
from unmemorize.export import import_results, read_statistics
from unmemorize.localization import read_localizations


def command(
    file: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    prompts: Annotated[Path | None, Parameter(alias="-p")] = None,
    count: Annotated[int | None, Parameter(validator=validators.Number(gte=2))] = None,
) -> None:
    """Read the files that the authors of Finding NeMo published.

    A file holds activation statistics, or the neurons that were found; these become a run folder
    for the other commands. The files do not say which weights they belong to. With --model they are
    bound to that model. Without it they are accepted for any model with the same layers.

    Args:
        file: Published statistics (.pt) or results (.csv).
        output: Statistics file to write (.safetensors), or run folder for results.
        model: Model they belong to. The default is any model with the layers of Stable Diffusion
            v1.
        prompts: Prompt file that says which captions are VM and TM, for results.
        count: Number of prompts that the statistics were computed over, which the file does not
            say. The default is 50000.
    """
    if file.suffix not in (".pt", ".pth", ".csv"):
        raise PromptError(
            f"{file}: neither statistics (.pt) nor results (.csv). Name one of the published files."
        )
    is_results = file.suffix == ".csv"
    if prompts is not None and not is_results:
        raise PromptError(f"{file}: --prompts is for results (.csv). Leave it out.")
    if count is not None and is_results:
        raise PromptError(f"{file}: --count is for statistics (.pt). Leave it out.")
    bound = LoadingOptions().load(model) if model else None
    if is_results:
        run = import_results(file, output, bound, prompts=read_prompts(prompts) if prompts else ())
        records = read_localizations(run).values()
        memorized = sum(record.memorized for record in records)
        print_line(f"{len(records)} prompts, {memorized} of them with neurons: {output}")
        print_answer(prompts=len(records), memorized=memorized, run=output)
        print_hint("unmemorize generate", output, "--model", model or "MODEL")
        return
    over = {} if count is None else {"count": count}
    statistics = read_statistics(file, bound, **over)
    statistics.save(output)
    print_line(f"{statistics.count} prompts, {len(statistics.mean)} value layers: {output}")
    print_answer(prompts=statistics.count, value_layers=len(statistics.mean), file=output)
    print_hint("unmemorize threshold")
