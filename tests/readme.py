"""README.md is nbs/index.ipynb as Markdown: `python tests/readme.py` writes it."""
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def readme():
    "The text of README.md; cells that begin with `#| echo: false` show what they print, not their code"
    import nbformat
    from nbconvert import MarkdownExporter

    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    nb.metadata.language_info = {"name": "python"}  # the language behind every ```
    for cell in nb.cells:
        cell.metadata.transient = {"remove_source": cell.source.startswith("#| echo: false")}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\(\.\./", "](", text)  # what lies above nbs/ is beside README.md
    text = re.sub(r"\]\((?=[\w/]+\.(?:ipynb|qmd|png))", "](nbs/", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme())
