"""The notebooks of docs/notebooks: how they are run, and what is kept of a run.

A notebook is committed with what it showed, so that it can be read where nothing runs:
on the site that `make docs` builds, too. Kept is what says something about the method;
progress and warnings, which tell of the machine, are not.
"""

import os
from pathlib import Path
from typing import Any

from vnets import extras, files

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
SECONDS = 3600  # of a cell, at most: a machine may be busy


def paths() -> list[Path]:
    """All notebooks, by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """The notebook at `path`, run from a fresh kernel in `folder`.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell fails; it shows which, and why.
    """
    nbclient, nbformat = map(extras.need, ("nbclient", "nbformat"))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=SECONDS,
        startup_timeout=SECONDS,
        record_timing=False,
        coalesce_streams=True,
        kernel_name="python3",
    )
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # as readers have
    client.execute(cwd=str(folder), env=env)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = {}
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def write(path: Path, notebook: Any) -> None:
    """Replaces the notebook at `path`."""
    files.write_text(path, extras.need("nbformat").writes(notebook) + "\n")
