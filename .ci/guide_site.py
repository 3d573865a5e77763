"""Hook of MkDocs: what the guide links to beside its folder (notebooks, task files) goes along into the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
_OUT = re.compile(r"\]\(\.\./([\w./-]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add every file that a page links to in the folder above, as ``beside/<its place>``."""
    for page in list(files.documentation_pages()):
        for place in _OUT.findall(page.content_string):
            if f"beside/{place}" not in files.src_uris:
                content = (NOTEBOOKS / place).read_bytes()
                files.append(File.generated(config, f"beside/{place}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let such a link lead to the file in the site."""
    return _OUT.sub(r"](beside/\1)", markdown)
