"""The prose of a table: Markdown beside its TOML, in sections.

    ## scale short      the text of scale.short
    ### reading         its field `reading`
    ### changed det     the entry `det` of its field `changed`
    ## row lenet5       the note of that row
    ## published paper  the source of published.paper

Lines are joined to paragraphs. A reading is shown as a bullet for each sentence, below
its paragraphs that end in a colon. What stands above the first section is for who reads
the file, and in no table.
"""

import re
from pathlib import Path
from typing import Any

from experiments.tables.specs import TableError, choice

FIELDS = {"scale": "text", "row": "note", "published": "source"}  # of a bare section
HEADING = re.compile(r"^(##+)(.*)$", re.MULTILINE)


def read(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The fields that a file gives to each (kind, name); none if there is no file.

    Raises:
      TableError: a kind of section that there is not, or a section that stands twice.
    """
    if not path.exists():
        return {}
    _, *parts = HEADING.split(path.read_text(encoding="utf-8"))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    here: dict[str, Any] = {}
    for level, heading, text in zip(*[iter(parts)] * 3, strict=True):
        words = tuple(heading.split())
        if level == "##":
            choice(words[0] if words else "", FIELDS, "kind of section")
            if len(words) != 2 or words in found:
                raise TableError(f"##{heading}: a section is of one name, once")
            here = found[words] = {}
            words = (FIELDS[words[0]],)
        _put(here, words, _paragraphs(text), f"{level}{heading}")
    return found


def _put(fields: dict[str, Any], words: tuple[str, ...], text: str, what: str) -> None:
    """Sets a field, or an entry of one; a section may have no text of its own."""
    if what.startswith("####") or len(words) not in (1, 2):
        raise TableError(f"{what}: a part of a section is ### FIELD or ### FIELD NAME")
    held = fields.setdefault(words[0], {}) if len(words) == 2 else fields
    if not isinstance(held, dict) or words[-1] in held:
        raise TableError(f"{what} stands twice")
    if text:
        held[words[-1]] = text


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(p.split()) for p in re.split(r"\n\s*\n", text.strip()))
