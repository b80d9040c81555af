"""Check for frameworks that own the training loop."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from powerflow.elastic.check.finding import Finding, finding
from powerflow.elastic.check.project import Project
from powerflow.elastic.check.source import Source

_HF = ("transformers.", "trl.")
_LIGHTNING = ("lightning.", "pytorch_lightning.", "lightning_fabric.")


def trainers(project: Project, source: Source) -> Iterator[Finding]:
    """Find Hugging Face's Trainer, Lightning and accelerate."""
    own = {node.name for node in source.nodes if isinstance(node, ast.ClassDef) and _is_trainer(source, node)}
    for call, name in source.calls:
        last = name.rpartition(".")[2]
        if (name.startswith(_HF) and last.endswith("Trainer")) or name in own:
            what = "the Trainer of transformers owns the training loop, which cannot be rescaled in place"
            fix = "rescale: restart, and trainer.train(resume_from_checkpoint=…)"
            yield finding(source, call, "trainer", what, fix)
        elif name.startswith(_LIGHTNING) and last in ("Trainer", "Fabric"):
            what = f"Lightning's {last} owns the process group, which cannot be rescaled in place"
            yield finding(source, call, "trainer", what, 'rescale: restart, and trainer.fit(…, ckpt_path="last")')
        elif (
            last == "prepare" and "accelerate.Accelerator" in source.imports.values() and "accelerator" in name.lower()
        ):
            what = "accelerate counts one process under PowerFlow, so prepare distributes nothing"
            yield finding(source, call, "accelerate", what, "run.wrap and run.batches in its place")


def _is_trainer(source: Source, kind: ast.ClassDef) -> bool:
    return any(source.dotted(base).startswith(_HF) and source.last(base).endswith("Trainer") for base in kind.bases)
