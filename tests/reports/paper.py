"""LaTeX checked: compiled where there is an engine, and by its syntax anywhere."""

import re
import shutil
import subprocess

ENGINES = ("pdflatex", "xelatex", "lualatex", "tectonic")
DOCUMENT = r"""\documentclass{article}
\usepackage[landscape,margin=1cm]{geometry}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""


def find_engine():
    """The path of a TeX engine, or None."""
    return next((path for path in map(shutil.which, ENGINES) if path), None)


def check_syntax(text):
    """Environments and braces are balanced, special characters escaped, rows equally long."""
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        stack.append(name) if kind == "begin" else stack.pop() == name or stack.append("?")
    assert not stack
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    bare = re.sub(r"\\.", "", "\n".join(lines))
    assert bare.count("{") == bare.count("}")
    assert not set("#%~") & set(bare) and bare.count("$") % 2 == 0
    # Outside formulas nothing is raised or lowered; labels are no text.
    words = re.sub(r"\$[^$]*\$|label\{[^}]*\}", "", bare)
    assert not set("_^") & set(words)
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [row for row in table[1].splitlines() if row.endswith(r"\\")]
        assert len(rows) > 1
        counts = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
        assert counts == {len(table[0]) - 1}


def compile_tables(text, folder):
    """Compiles tables; nothing may be an error.

    Returns:
      The engine's log.
    """
    path = folder / "paper.tex"
    path.write_text(DOCUMENT % text)
    engine = find_engine()
    options = [] if engine.endswith("tectonic") else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run(
        [engine, *options, path.name], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "paper.pdf").stat().st_size > 1000
    return done.stdout
