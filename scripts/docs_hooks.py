"""Pages that the documentation makes of what is there: results, gallery, reference.

mkdocs calls these functions (`hooks` of mkdocs.yml). Nothing is written but the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[((?:[^\]\\]|\\.)*)\]\(([^)\s]+)\)")
SHOWN = (".md", ".png", ".gif", ".svg", ".csv")


def on_config(config):
    """Lists the modules of the library under "Reference"."""
    pages = [{name: f"reference/{name}.md"} for name in modules()]
    config["nav"].append({"Reference": pages})
    return config


def on_files(files, config):
    """Adds the pages and pictures of results/, a gallery and a page for each module."""
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in SHOWN:
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    pages = {"gallery.md": gallery()}
    for name in modules():
        pages[f"reference/{name}.md"] = f"# vnets.{name}\n\n::: vnets.{name}\n"
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links to their place on the site; what it lacks becomes plain text.

    Pages link to files as they lie in the repository, so that they can be read there.
    """
    here = page.file.src_uri
    folder = posixpath.dirname(here if here.startswith("results/") else f"docs/{here}")

    def replace(match):
        image, text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return match[0]
        place = posixpath.normpath(posixpath.join(folder, path))
        if not (ROOT / place).exists() and not files.get_file_from_path(
            place.removeprefix("docs/")
        ):
            raise ValueError(f"{here}: no file {target}")
        name = place.removeprefix("docs/")
        if files.get_file_from_path(name) is None:
            return text
        relative = posixpath.relpath(name, posixpath.dirname(here))
        return f"{image}[{text}]({relative}{mark}{anchor})"

    return LINK.sub(replace, markdown)


def modules() -> list[str]:
    """Public modules and packages right under vnets."""
    found = (ROOT / "vnets").iterdir()
    names = [
        path.stem
        for path in found
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    return sorted(name for name in names if not name.startswith("_"))


def gallery() -> str:
    """Every figure of results/, under the name of its table."""
    lines = ["# Gallery", "", "Each figure is drawn from committed records alone.", ""]
    for folder in sorted(
        path for path in (ROOT / "results").iterdir() if path.is_dir()
    ):
        figures = sorted(folder.glob("*.png"))
        pages = [p for p in sorted(folder.glob("*.md")) if p.stem != "README"]
        if not figures or not pages:
            continue
        lines += [f"## {folder.name}", ""]
        lines += [f"[numbers and sources](results/{folder.name}/{pages[-1].name})", ""]
        lines += [
            f"![{figure.stem}](results/{folder.name}/{figure.name}){{ loading=lazy }}"
            for figure in figures
        ]
        lines.append("")
    # Links of generated pages are those of the site.
    return "\n".join(lines).replace("](results/", "](../results/")
