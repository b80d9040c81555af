"""Make the JSON Schema of ``job.yaml`` for editors; ``python -m powerflow.api.job_schema`` prints it.

The schema has the allowed values of each single field. Rules about several fields are not in it; PowerFlow checks them
when it reads the job. An example of such a rule: a range of GPU counts needs a rescale mode.
"""

from __future__ import annotations

import json
from typing import Any

from powerflow.api.job_spec import NO_NUL, JobSpec


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``job.yaml``. The package contains it as ``job.schema.json``."""
    schema = JobSpec.model_json_schema()
    # a file may name a directory from where it stands, or from a home; what is submitted then has it from the root
    for properties, key in ((schema["properties"], "directory"), (schema["$defs"]["Checkpoint"]["properties"], "dir")):
        properties[key]["anyOf"][0]["pattern"] = NO_NUL
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "PowerFlow job"}
    return head | {key: value for key, value in schema.items() if key not in head}


def schema_text() -> str:
    """Return the JSON Schema of ``job.yaml`` as text."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
