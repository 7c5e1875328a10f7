"""README.md is nbs/index.ipynb as Markdown: `python tests/readme.py` writes it."""
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def readme():
    "The text of README.md"
    from nbconvert import MarkdownExporter

    text, _ = MarkdownExporter().from_filename(str(ROOT / "nbs" / "index.ipynb"))
    text = re.sub(r"\]\(\.\./", "](", text)  # what lies above nbs/ is beside README.md
    return re.sub(r"\]\((?=[\w/]+\.ipynb)", "](nbs/", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme())
