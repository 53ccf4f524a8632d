"""The notebook of the docs runs as it stands, and the outputs that it carries are of these cells."""

import runpy


def test_the_notebook_runs_and_carries_what_its_cells_give(repo, tmp_path):
    made = runpy.run_path(str(repo / "scripts" / "notebook.py"))
    fresh = made["executed"](tmp_path)
    kept = made["nbformat"].read(made["FILE"], as_version=4)
    assert [c.source for c in fresh.cells] == [c.source for c in kept.cells]
    kinds = [[sorted(o.get("data", {"text": 0})) for o in c.get("outputs", [])] for c in fresh.cells]
    assert kinds == [[sorted(o.get("data", {"text": 0})) for o in c.get("outputs", [])] for c in kept.cells]
    shown = [o for c in fresh.cells for o in c.get("outputs", [])]
    assert len(shown) >= 6
    assert not [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"]
