"""The rules of the house that no linter knows: sizes, reasons, the public names, what an import may cost."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import audit_middleware

ROOT = Path(__file__).parents[2]
PACKAGE = sorted([*(ROOT / "audit_middleware").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")])
SOURCES = [*PACKAGE, *sorted(ROOT.glob("tests/**/*.py")), *sorted(ROOT.glob("benchmarks/**/*.py"))]
MAX_FILE, MAX_FUNCTION, MEDIAN_FUNCTION = 320, 45, 8


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            yield node.name, (body[-1].end_lineno - body[0].lineno + 1) if body else 0


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_room_and_its_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE
    assert [name for name, lines in functions(path) if lines > MAX_FUNCTION] == []


def test_the_median_function_is_short():
    assert statistics.median(lines for path in PACKAGE for _, lines in functions(path)) <= MEDIAN_FUNCTION


def test_every_ignore_names_its_rule_and_says_why():
    pattern = re.compile(
        r"# (?:noqa(?!: [A-Z]+[0-9]+(?:, [A-Z]+[0-9]+)* - .)|type: ignore(?!\[[a-z, -]+\] # .)|pragma: no cover$)"
    )
    assert [str(path) for path in SOURCES if path != Path(__file__) and pattern.search(path.read_text())] == []


def test_the_public_names_are_sorted_and_are_all_there_is():
    names = audit_middleware.__all__
    assert names == sorted(names, key=lambda name: (name.startswith("__"), name)) or names == sorted(names)
    assert all(hasattr(audit_middleware, name) for name in names)


def run(code):
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_importing_the_package_imports_nothing_heavy_and_starts_nothing():
    code = """
import sys, threading, os
before = set(os.listdir("/proc/self/fd"))
import audit_middleware
heavy = {"starlette", "httpx", "uvicorn", "opentelemetry.sdk", "fastapi", "sqlite3", "click", "importlib.metadata"}
print(*sorted(heavy & set(sys.modules)), threading.active_count(), len(set(os.listdir("/proc/self/fd")) - before))
"""
    assert run(code) == ["1", "0"]


def test_verifying_needs_neither_web_framework_nor_http_client():
    code = """
import sys
import audit_middleware.verify
print(*sorted({"starlette", "httpx", "uvicorn"} & set(sys.modules)))
"""
    assert run(code) == []


def test_no_machine_of_ours_is_named():
    hosts = re.compile("py" + r"pi\.org|python" + r"hosted\.org|registry\.npm" + r"js\.org|deb\.deb" + r"ian\.org")
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    assert tracked
    for name in tracked:
        if (ROOT / name).is_file():
            assert not hosts.search((ROOT / name).read_text(errors="replace")), name


def test_both_source_roots_are_typed():
    assert (ROOT / "audit_middleware" / "py.typed").exists()
    assert (ROOT / "integrations" / "audit_integrations" / "py.typed").exists()
