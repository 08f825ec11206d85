"""What documents and settings of tools state is what the code has: versions of formats, commands of checks, locks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from megamod.analyze.chart import record_json
from megamod.boot import timeline
from megamod.build import link_map, manifest
from megamod.common.documents import version_of

TOP = Path(__file__).parents[2]

VERSIONS = {
    "`IMAGE.map`, `--map` of `prelink`": version_of(link_map.MapDocument),
    "`/megamod/manifest.json`": version_of(manifest.Manifest),
    "`boot --json`": timeline.JSON_VERSION,
    "`megamod-chart` (`chart --json`)": version_of(record_json.ChartDocument),
}


def documented_versions() -> dict[str, int]:
    rows = re.findall(r"^\| (.+?) \| (\d+) \|", (TOP / "initramfs/docs/formats.md").read_text(), re.MULTILINE)
    return {name: int(version) for name, version in rows}


@pytest.mark.parametrize("name", VERSIONS, ids=["map", "manifest", "timeline", "chart"])
def test_a_format_has_the_documented_version(name: str) -> None:
    assert documented_versions()[name] == VERSIONS[name]


def test_the_plan_and_the_status_have_the_documented_version() -> None:
    (plan,) = set(
        re.findall(r'_record\("megamod-plan", "(\d+)"\)', (TOP / "initramfs/megamod/build/plan.py").read_text())
    )
    (status,) = re.findall(r'{\\"version\\": (\d+)', (TOP / "loader/status.c").read_text())
    documented = documented_versions()
    assert (documented["`/megamod/plan`"], documented["`/run/megamod/status.json`"]) == (int(plan), int(status))


def test_pre_commit_runs_the_checks_of_run_sh() -> None:
    settings = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())
    entries = {hook["entry"] for repo in settings["repos"] for hook in repo["hooks"]}
    script = (TOP / "tests/run.sh").read_text()
    for check in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint-imports",
        "clang-format --dry-run",
        "shellcheck -x",
    ):
        assert any(check in entry for entry in entries), check
        words = check.split()
        assert re.search(r"[/ ]" + words[0] + r'\b"?.*' + r".*".join(words[1:]), script), check


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in requirements}


@pytest.mark.parametrize("lock", ["constraints.txt", "lowest.txt"])
def test_a_lock_has_a_hash_for_all_that_pyproject_names(lock: str) -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    text = (TOP / ".github" / lock).read_text()
    assert "://" not in text
    locked = {}
    for block in re.split(r"\n(?=[a-z])", text.replace("\\\n", " ")):
        if found := re.match(r"([a-z0-9.-]+)==(\S+)", block):
            locked[found[1]] = (found[2], block.count("--hash=sha256:"))
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    wanted = [*project["dependencies"], *extras]
    assert names_of(wanted) <= locked.keys()
    assert all(hashes for _, hashes in locked.values())
    if lock == "lowest.txt":
        bounds = [re.match(r"([\w.-]+)(?:\[.*\])?[>=]=([\d.]+)", one) for one in wanted]
        for bound in filter(None, bounds):
            # The lowest release that the bound names: 3.0.2 where it says 3.
            assert f"{locked[bound[1].lower()][0]}.".startswith(f"{bound[2]}."), bound[0]
