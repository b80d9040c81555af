"""``powerflow describe``: what is known about a job, and what is not."""

from __future__ import annotations

from tests.cli.shell import Shell


def test_describe(busy: Shell) -> None:
    said = busy("describe", "1")
    for part in ("resnet50", "project vision", "2 × A100 at 1110 MHz on n1", "402 Wᵉ", "0.05 kWhᵉ", "250 of 1,000"):
        assert part in said
    assert "3.1 %" in said.replace("\u202f", " ")
    assert "boom" in busy("describe", "4")
    document = busy.json("describe", "1")
    assert (document["kind"], document["job"]["id"], document["spec"]["run"]) == ("job", "1", "python t.py")
    assert document["gpus_held"] == {"n1": [0, 1]}


def test_describe_shows_each_key_of_a_job(shell: Shell) -> None:
    given: tuple[str, ...] = ("-J", "x", "-G", "A100:1..2", "--rescale", "in-place", "--priority", "high")
    given += ("-A", "vision", "-t", "12h")
    given += ("--batch", "4096", "--local-max", "16", "--max-slowdown", "10%", "--model", "resnet50")
    given += ("--iterations", "2000", "--progress", "at (?P<step>.)", "--memory", "16GiB", "--cpus", "1.5")
    given += ("--between-steps", "2h", "--checkpoint-dir", "/ck", "--checkpoint-every", "10m", "--grace", "40s")
    given += ("--retries", "3", "--array", "4", "--dependency", "after:1", "--env", "A=b", "-o", "none")
    shell("submit", "--run", "true")
    shell("submit", *given, "--directory", "/data", "--", "true", "x")
    said = dict(line.split("  ", 1) for line in shell("describe", "2").splitlines() if "  " in line)
    found = {name: text.strip() for name, text in said.items()}
    assert found["asked for"] == "A100:1..2 GPUs · high priority · rescale in-place"
    assert (found["command"], found["directory"], found["array"]) == ("true x", "/data", "4")
    assert (found["dependency"], found["environment"], found["model"]) == ("after:1", "A=b", "resnet50")
    assert (found["time limit"], found["between steps"]) == ("at most 12 h", "at most 2 h")
    assert (found["memory"], found["CPUs"]) == ("at most 16 GiB for each process", "at most 1.5 for each process")
    assert found["batch"] == "4,096 samples a step, at most 16 at once on a GPU"
    assert found["slower"].replace("\u202f", " ") == "at most 10 %, to save energy"
    assert found["checkpoint"] == "in /ck · every 10 min · 40 s to save it before the job is ended"
    assert (found["steps"], found["step pattern"], found["retries"]) == ("0 of 2,000", "at (?P<step>.)", "at most 3")


def test_describe_says_what_is_not_known_or_not_limited(busy: Shell) -> None:
    rows = [line.split("  ", 1) for line in busy("describe", "2").splitlines()]
    found = {row[0]: row[-1].strip() for row in rows}
    assert (found["progress"], found["step time"], found["batch"]) == ("unknown", "unknown", "unknown")
    assert (found["memory"], found["CPUs"], found["time limit"]) == ("no limit", "no limit", "no limit")
    assert (found["retries"], found["checkpoint"][:24]) == ("at most 2", "in a folder of PowerFlow")
