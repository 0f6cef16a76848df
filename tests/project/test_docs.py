"""The documents say what the code does: every setting, command, rule and problem is in them."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from celery import Celery
from django.utils.module_loading import import_string
from fastapi import FastAPI
from flask import Flask

from audit_integrations.celery import Audit as CeleryAudit
from audit_integrations.fastapi import audited_user
from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, ConfigurationError, config
from audit_middleware.cli import COMMANDS
from audit_middleware.collector.monitor.kinds import KINDS
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.payloads import json_schema
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import parse_frame
from audit_middleware.verify.report import MEANINGS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
EVERYTHING = README + "".join(DOCS.values())


@pytest.mark.parametrize("setting", dataclasses.fields(config.Settings), ids=lambda setting: setting.name)
def test_every_setting_is_documented_with_its_default_and_help(setting):
    default = "" if setting.default in {None, ()} else f"`{setting.default}`"
    row = f"| `{config.variable(setting.name)}` | `{setting.name}` | {default} | {setting.metadata['help']} |"
    assert row in DOCS["settings.md"]


def test_every_documented_variable_exists():
    known = {config.variable(setting.name) for setting in dataclasses.fields(config.Settings)}
    assert set(re.findall(r"AUDIT_[A-Z_]+\b", EVERYTHING)) - known - config.COLLECTOR_VARIABLES <= {"AUDIT_"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_documents(command):
    assert f"audit-ready {command}" in EVERYTHING or f"make {command}" in README


def test_every_problem_id_is_documented():
    folders = (ROOT / "audit_middleware", ROOT / "integrations")
    source = "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    assert set(re.findall(r"audit\.[EW][0-9]{3}", source)) == set(
        re.findall(r"audit\.[EW][0-9]{3}", DOCS["settings.md"])
    )


@pytest.mark.parametrize("rule", MEANINGS)
def test_every_rule_of_verify_is_documented_with_its_meaning(rule):
    assert f"| `{rule}` | {MEANINGS[rule]} |" in DOCS["operating.md"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_finding_is_documented_as_the_program_has_it(name):
    kind = KINDS[name]
    ends = {"itself": "by itself", "person": "by a person"}[kind.ends]
    row = f"| `{name}` | {kind.severity} | {ends} | {kind.meaning} | {kind.remedy} |"
    assert row in DOCS["findings.md"]


def test_the_kinds_of_findings_are_those_of_the_wire_format():
    listed = DOCS["wire-format.md"].split("Kinds: ")[1].split(". Severities")[0]
    assert set(re.findall(r"`([a-z_]+)`", listed)) == set(KINDS)


def test_every_setting_of_the_monitor_is_documented_with_its_default():
    settings = tomllib.loads(DOCS["findings.md"].split("```toml\n")[1].split("```")[0])["monitor"]
    examples = {"expected_services": [], "silence_by_service": {}, "rules_file": None}
    assert settings | examples == msgspec.structs.asdict(MonitorSettings())


def test_the_commands_of_the_readme_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = README + (ROOT / "CONTRIBUTING.md").read_text() + "".join(DOCS.values())
    assert set(re.findall(r"^ +make ([a-z-]+)", texts, re.MULTILINE)) <= targets
    assert {"demo", "test"} <= targets


def test_ci_runs_what_the_readme_promises():
    script = (ROOT / ".ci" / "run").read_text()
    assert "\nmake test\n" in script
    assert "\nmake demo\n" in script
    assert "set -e" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_sample_record_of_the_readme_is_a_line_of_the_wire_format():
    sample = re.search(r"```json\n(.*?)```", README, re.DOTALL)[1]
    line = "".join(part.strip() for part in sample.splitlines()).encode()
    payload = parse_rec(line, parse_frame(line))
    assert payload.principal.id == "alice"


def test_the_python_of_the_readme_runs():
    """The first block has one line for each framework, each with its own app."""
    frameworks, application = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    asgi, wsgi_app = FastAPI(), lambda environ, start_response: []
    names = [
        {"app": asgi, "AuditMiddleware": AuditMiddleware},
        {"app": Flask("shop"), "Audit": Audit},
        {"MIDDLEWARE": ["django.middleware.common.CommonMiddleware"]},
        {"application": wsgi_app, "AuditWSGIMiddleware": AuditWSGIMiddleware},
        {"celery_app": Celery("shop"), "Audit": CeleryAudit},
    ]
    for line, known in zip(frameworks.splitlines(), names, strict=True):
        exec(compile(line, "README.md", "exec"), known)
    assert asgi.user_middleware[0].cls is AuditMiddleware
    assert names[1]["app"].extensions["audit"] is names[1]["audit"]
    assert import_string(names[2]["MIDDLEWARE"][0]).__name__ == "AuditMiddleware"
    assert names[3]["application"].app is wsgi_app
    with pytest.raises(ConfigurationError, match=r"audit\.E012"):
        CeleryAudit(names[4]["celery_app"])
    assert audited_user.__name__ in README
    said = {}
    exec(compile(application, "README.md", "exec"), said)
    said["refund"](7)


def test_links_between_documents_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("example_apps/*/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_vectors_are_the_published_ones():
    from hashlib import sha256

    content = json.dumps(json.loads((ROOT / "tests/vectors/vectors.json").read_text()), sort_keys=True)
    assert sha256(content.encode()).hexdigest() == VECTORS_SHA256


VECTORS_SHA256 = "7dcdf68829a8b370048a8156f48a0a4df6731e0b92756a8c0c9e09864553f5f8"


def test_wire_format_names_every_member_of_a_record():
    members = json_schema()["$defs"]["AuditRecord"]["properties"]
    table = DOCS["wire-format.md"].split("## 4.")[1].split("## 5.")[0]
    assert all(f"`{member}`" in table for member in members)
