"""Pages that the documentation makes of what is there: results, notebooks, reference.

mkdocs calls these functions (`hooks` of mkdocs.yml). Nothing is written but the site.
"""

import base64
import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[((?:[^\]\\]|\\.)*)\]\(([^)\s]+)\)")
SHOWN = (".md", ".png", ".gif", ".svg", ".csv")
NUMBER = re.compile(r"(?<=\d) \u00b1 (?=\d)")  # of a mean and its deviation
WIDE = 800  # pixels of a picture; a panel of the figures has 468


def on_config(config):
    """Lists the modules of the library under "Reference"."""
    pages = [{name: f"reference/{name}.md"} for name in modules()]
    config["nav"].append({"Reference": pages})
    return config


def on_files(files, config):
    """Adds results/, a gallery, and a page for each notebook and each module."""
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in SHOWN:
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    pages = {"gallery.md": gallery()}
    for name in modules():
        pages[f"reference/{name}.md"] = f"::: vnets.{name}\n"
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages |= notebook(path)
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
        name = place.removeprefix("docs/").replace(".ipynb", ".md")
        if files.get_file_from_path(name) is None:
            return text
        relative = posixpath.relpath(name, posixpath.dirname(here))
        if image:
            wide = is_wide(files.get_file_from_path(name).content_bytes)
            mark = "{ .wide loading=lazy }" if wide else "{ loading=lazy }"
            return f"![{text}]({relative}){mark}"
        return f"[{text}]({relative}{mark}{anchor})"

    linked = LINK.sub(replace, markdown)
    return NUMBER.sub("\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}", linked)


def is_wide(picture: bytes) -> bool:
    """Whether a PNG has more than two panels side by side, too many for a phone."""
    return picture[1:4] == b"PNG" and int.from_bytes(picture[16:20], "big") > WIDE


def modules() -> list[str]:
    """Public modules and packages right under vnets."""
    found = (ROOT / "vnets").iterdir()
    names = [
        path.stem
        for path in found
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    return sorted(name for name in names if not name.startswith("_"))


def notebook(path: Path) -> dict[str, str | bytes]:
    """The page of a notebook with what its cells showed, and the page's pictures."""
    name, lines, pictures = path.stem, [], {}

    def fenced(language: str, text: str) -> str:
        return f"```{language}\n{text.rstrip()}\n```"

    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        lines.append(
            text if cell["cell_type"] == "markdown" else fenced("python", text)
        )
        if len(lines) == 1:
            lines.append(f'<a href="{path.name}" download>Download this notebook</a>')
        for output in cell.get("outputs", []):
            shown = {k: "".join(v) for k, v in output.get("data", output).items()}
            if "image/png" in shown:
                picture = f"{name}-{len(pictures)}.png"
                pictures[f"notebooks/{picture}"] = base64.b64decode(shown["image/png"])
                lines.append(f"![what the cell above drew]({picture})")
            elif "text/markdown" in shown:
                lines.append(shown["text/markdown"])
            else:
                lines.append(fenced("text", shown.get("text/plain", shown.get("text"))))
    return {f"notebooks/{name}.md": "\n\n".join(lines) + "\n", **pictures}


def gallery() -> str:
    """The figures of each table at its largest scale, under its title."""
    lines = ["# Gallery", "", "Each figure is drawn from committed records alone.", ""]
    for folder in sorted(
        path for path in (ROOT / "results").iterdir() if path.is_dir()
    ):
        pages = [p for p in sorted(folder.glob("*.md")) if p.stem != "README"]
        figures = sorted(folder.glob(f"{pages[-1].stem}*.png")) if pages else []
        if not figures:
            continue
        title = pages[-1].read_text("utf-8").splitlines()[0].removeprefix("# ")
        lines += [f"## {title.partition(' (scale')[0]}", ""]
        lines += [f"[numbers and sources](results/{folder.name}/{pages[-1].name})", ""]
        for figure in figures:
            lines += [f"![{figure.stem}](results/{folder.name}/{figure.name})", ""]
    # Links of generated pages are those of the site.
    return "\n".join(lines).replace("](results/", "](../results/")
