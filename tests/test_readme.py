"""What the README shows runs as printed, with one epoch in place of a hundred."""

import re
from pathlib import Path

from pyro_priors.tracing import inductor

README = Path(__file__).parent.parent / "README.md"


def test_the_scripts_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    script, loop, compiled = blocks[:3]
    assert "range(100)" in script and "max_epochs=100" in loop
    code = script.replace("range(100)", "range(1)").replace("num_samples=500", "num_samples=5")
    code += loop.replace("max_epochs=100", "max_epochs=1") + compiled
    monkeypatch.setattr(inductor, "compile_graph", lambda graph, inputs: graph)  # without the seconds of a compiler
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert names["history"].stopped == "max_epochs"
    assert (tmp_path / "runs/digits/pair/pair.json").exists()


def test_the_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
