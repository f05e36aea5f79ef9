"""Sphinx: code cells link to the package's pages, and its modules to their chapters.

sphinx-codeautolink keeps a stack of titles and takes one off at the end of every section. Theorems
and exercises are sections without a title, so it takes one off an empty stack and stops the
build. Here that step is made safe; the titles only serve lists of examples that we do not have.
"""

import re

from sphinx_codeautolink.extension.block import CodeBlockAnalyser

CHAPTERS = {
    "LoRA basics": "ch-lora",
    "Exact memory": "ch-memory",
    "The p > 1/2 argument": "ch-half",
    "The memory law": "ch-law",
    "MemFT": "ch-memft",
    "Memory against generalization": "ch-generalization",
    "At the paper's scale": "ch-scale",
}


def link_chapters(app, what, name, obj, options, lines) -> None:
    """In a module's docstring, "(chapter: MemFT; …)" becomes a link to that chapter."""
    if what != "module":
        return
    text = "\n".join(lines)
    for parenthesis in re.findall(r"\(chapters?:[^)]*\)", text):
        linked = parenthesis
        for title, label in CHAPTERS.items():
            spaced = re.escape(title).replace(r"\ ", r"\s+")
            linked = re.sub(rf"(?<=[:,]\s){spaced}", f":ref:`{title} <{label}>`", linked)
        text = text.replace(parenthesis, linked)
    lines[:] = text.split("\n")


def setup(app):
    """Load the extension, with that one step made safe."""
    CodeBlockAnalyser.depart_section = lambda self, node: (
        self.title_stack and self.title_stack.pop()
    )
    app.setup_extension("sphinx_codeautolink")
    app.connect("autodoc-process-docstring", link_chapters)
    return {"parallel_read_safe": True}
