"""The command line, as a program: what it prints, and its exit codes."""

import http.server
import json
import os
import subprocess
import sys
import threading

import msgspec
import pytest

from audit_middleware.cli import COMMANDS
from audit_middleware.cli.search import _row
from audit_middleware.config import load
from audit_middleware.payloads import PAYLOADS
from audit_middleware.pipeline import Pipeline
from audit_middleware.sealing.keys import new_key

KEYS = new_key("test")


def run(*arguments, **environ):
    done = subprocess.run(
        [sys.executable, "-m", "audit_middleware", *arguments],
        env={**os.environ, **environ}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def spool(tmp_path):
    """A spool with one closed stream of 20 events."""
    pipeline = Pipeline(load({}, spool_dir=tmp_path / "spool", keys=KEYS, service="orders"), "orders")
    for number in range(20):
        pipeline.event(pipeline.recorder._writer._announcer.event("orders", f"test.{number}", "because"))
    pipeline.close()
    return tmp_path / "spool"


def test_help_lists_every_command_and_the_exit_codes():
    text = run("--help").stdout
    assert all(command in text for command in COMMANDS)
    assert "1 evidence of tampering" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 4


JSON_COMMANDS = ["collect", "config check", "config explain", "demo", "keys list", "keys new", "rebuild-index"]
JSON_COMMANDS += ["reconcile", "search", "ship", "spool status", "trace", "verify", "watch"]
JSON_COMMANDS += ["findings list", "findings show", "findings ack", "findings resolve"]


@pytest.mark.parametrize("command", JSON_COMMANDS)
def test_every_command_speaks_json(command):
    assert "--json" in run(*command.split(), "--help").stdout


def test_an_unknown_command_is_wrong_usage():
    assert run("frobnicate").returncode == 2


def test_keys_new_makes_a_key_that_works(tmp_path):
    key = run("keys", "new", "k7").stdout.strip()
    assert key.startswith("k7:")
    assert run("keys", "list", AUDIT_KEYS=key).stdout == "k7  (seals)\n"


def test_keys_new_appends_to_a_private_file(tmp_path):
    file = tmp_path / "keys"
    for kid in ("a", "b"):
        assert run("keys", "new", kid, "--file", str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(run("keys", "list", "--json", AUDIT_KEY_FILE=str(file)).stdout)["kids"] == ["a", "b"]
    file.chmod(0o644)
    done = run("keys", "new", "c", "--file", str(file))
    assert (done.returncode, "chmod 600" in done.stderr) == (2, True)


def test_a_bad_name_of_a_key_is_refused_in_words():
    done = run("keys", "new", "no spaces")
    assert done.returncode == 2
    assert "1-32 characters" in done.stderr


def test_verify_says_good_and_exits_0(spool):
    done = run("verify", str(spool), AUDIT_KEYS=KEYS)
    assert done.returncode == 0
    assert "22 lines, 1 streams: good" in done.stdout


def test_verify_names_the_line_the_rule_and_what_it_means(spool):
    (segment,) = spool.glob("streams/*/seg-*")
    segment.write_bytes(segment.read_bytes().replace(b"test.7", b"test.8", 1))
    done = run("verify", str(spool), AUDIT_KEYS=KEYS)
    assert done.returncode == 1
    assert f"TAMPERING seal: streams/{segment.parent.name}/{segment.name} line 9" in done.stdout
    assert "which means: the line was altered after it was sealed" in done.stdout
    report = json.loads(run("verify", str(spool), "--json", AUDIT_KEYS=KEYS).stdout)
    assert [(f["rule"], f["seq"]) for f in report["findings"]] == [("seal", 8)]


def test_verify_with_another_key_could_not_check_and_exits_2(spool):
    done = run("verify", str(spool), AUDIT_KEYS=new_key("other"))
    assert done.returncode == 2
    assert "unverifiable, which is not tampered" in done.stdout


@pytest.mark.parametrize("target", ["/nonexistent", "http://127.0.0.1:9", "."])
def test_verify_of_something_that_is_nothing_exits_2(target, tmp_path):
    done = run("verify", target, AUDIT_KEYS=KEYS)
    assert done.returncode == 2
    assert done.stderr


def test_spool_status_and_export(spool):
    status = json.loads(run("spool", "status", str(spool), "--json").stdout)
    (stream,) = status["streams"]
    assert (stream["service"], stream["writer"], stream["last_seq"], stream["closed"]) == ("orders", "dead", 21, True)
    exported = run("spool", "export", str(spool)).stdout.splitlines()
    assert [json.loads(line)["seq"] for line in exported] == list(range(22))


def test_spool_status_warns_of_a_journal_nobody_adopts(spool):
    (segment,) = spool.glob("streams/*/seg-*")
    assert run("spool", "status", str(spool)).returncode == 0  # however long the process had lived
    os.utime(segment, (1, 1))
    done = run("spool", "status", str(spool))
    assert done.returncode == 2
    assert "audit-ready ship" in done.stdout


def test_ship_without_a_collector_says_what_is_missing(spool):
    done = run("ship", str(spool))
    assert (done.returncode, "AUDIT_COLLECTOR_URL" in done.stderr) == (2, True)


def test_ship_to_a_collector_that_is_away_leaves_everything_and_exits_2(spool):
    done = run("ship", str(spool), "--timeout", "0.5", AUDIT_COLLECTOR_URL="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "1 streams still wait" in done.stdout
    assert "Connection refused" in done.stderr


def test_config_check_finds_contradictions_and_typing_errors():
    good = run("config", "check", AUDIT_KEYS=KEYS)
    assert (good.returncode, good.stdout) == (0, "settings are good\n")
    bad = run("config", "check", AUDIT_KEYS=KEYS, AUDIT_DURABILITY="collector", AUDIT_DURABILTY="x")
    assert bad.returncode == 2
    assert "audit.E005" in bad.stdout
    assert "AUDIT_DURABILTY is no setting" in bad.stdout
    assert "audit.E002" in run("config", "check", AUDIT_SPOOL_MAX="plenty").stderr
    assert "audit.E008" in run("config", "check", AUDIT_KEYS=KEYS, AUDIT_LOG_KEYS="no+key").stdout


def test_config_check_says_that_no_record_could_be_kept(tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(0o777)
    bad = run("config", "check", AUDIT_KEYS=KEYS, AUDIT_SPOOL_DIR=str(spool))
    assert (bad.returncode, "audit.E022" in bad.stdout, "chmod 700" in bad.stdout) == (2, True, True)
    assert "audit.E022" in run("config", "check", AUDIT_KEYS=KEYS, AUDIT_SPOOL_DIR="/etc/passwd/x").stdout
    assert run("config", "check", AUDIT_KEYS=KEYS, AUDIT_SPOOL_DIR=str(tmp_path / "new")).returncode == 0
    assert not (tmp_path / "new").exists()


def test_config_explain_shows_every_setting_and_no_secret():
    text = run("config", "explain", AUDIT_KEYS=KEYS, AUDIT_TOKEN="very-secret-token").stdout
    assert "AUDIT_WAIT_TIMEOUT" in text
    assert "very-secret" not in text
    assert KEYS.split(":")[1] not in text


def test_collect_refuses_to_listen_beyond_loopback_without_tokens(tmp_path):
    done = run("collect", "--data", str(tmp_path / "data"), "--listen", "0.0.0.0:0", AUDIT_KEYS=KEYS)
    assert done.returncode == 2
    assert "token" in done.stderr
    assert not (tmp_path / "data" / "log").exists()


def test_search_needs_a_collector():
    done = run("search")
    assert (done.returncode, "AUDIT_COLLECTOR_URL" in done.stderr) == (2, True)


def test_demo_touches_no_folder_that_is_not_its_own(tmp_path):
    (tmp_path / "precious").write_text("x")
    done = run("demo", "--dir", str(tmp_path))
    assert done.returncode == 2
    assert (tmp_path / "precious").exists()


def test_search_reads_a_data_folder_without_its_collector(tmp_path):
    from audit_middleware.collector.collector import Collector
    from audit_middleware.collector.settings import CollectorSettings
    from audit_middleware.sealing.keys import parse_keys
    from tests.verify.test_ledger_attacks import stream_lines

    keyring = parse_keys(f"k1:{'A' * 43}")
    settings = CollectorSettings(data=tmp_path / "data", keyring=keyring, name="test", guard=tmp_path / "guard")
    with Collector(settings).open() as collector:
        collector.deliver(stream_lines(600))
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "data").glob("log/**/*"))
    found = run(
        "search", "--data", str(tmp_path / "data"), "--principal", "alice", "--limit", "1000", "--json", "--proof"
    )
    assert len(found.stdout.splitlines()) == 599
    assert json.loads(found.stdout.splitlines()[0])["proof"].startswith("c2sp.org/tlog-proof@v1\n")
    assert "orders" in run("search", "--data", str(tmp_path / "data")).stdout
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "data").glob("log/**/*")) == before
    wrong = run("search", "--data", str(tmp_path / "data"), "--from", "yesterday")
    assert (wrong.returncode, "expected a date" in wrong.stderr) == (2, True)
    empty = run("search", "--data", str(tmp_path))
    assert (empty.returncode, "index.sqlite is missing" in empty.stderr) == (2, True)


def _sample(type_):
    """Some value of a type of a record."""
    inspect = msgspec.inspect
    if isinstance(type_, inspect.StructType):
        return {each.name: _sample(each.type) for each in type_.fields}
    if isinstance(type_, inspect.UnionType):
        return _sample(type_.types[0])
    if isinstance(type_, inspect.LiteralType):
        return type_.values[0]
    values = {inspect.IntType: 1, inspect.BoolType: True, inspect.ListType: [], inspect.DictType: {}}
    return values.get(type(type_), "x")


@pytest.mark.parametrize("type_", sorted(PAYLOADS))
def test_records_of_every_type_have_a_row(type_):
    rec = _sample(msgspec.inspect.type_info(PAYLOADS[type_]))
    row = _row({"ts": "2026-11-24T00:00:00.000000Z", "type": type_, "rec": rec})
    assert (len(row), row[2], {type(each) for each in row}) == (9, type_, {str})


def test_rebuild_index_makes_what_was_deleted(tmp_path):
    test_search_reads_a_data_folder_without_its_collector(tmp_path)
    for part in (tmp_path / "data").glob("index.sqlite*"):
        part.unlink()
    done = run(
        "rebuild-index",
        "--data",
        str(tmp_path / "data"),
        AUDIT_KEYS=f"k1:{'A' * 43}",
        AUDIT_COLLECTOR_GUARD=str(tmp_path / "guard"),
    )
    assert (done.returncode, "complete" in done.stdout) == (0, True)
    found = run("search", "--data", str(tmp_path / "data"), "--principal", "alice", "--limit", "1000", "--json")
    assert len(found.stdout.splitlines()) == 599


def test_an_error_is_json_where_json_is_asked_for(tmp_path):
    for arguments in (["verify", "/nonexistent"], ["search", "--limit", "0"], ["verify"], ["search"]):
        done = run(*arguments, "--json", AUDIT_KEYS=KEYS)
        said = json.loads(done.stdout)
        assert (done.returncode, said["exit_code"]) == (2, 2)
        assert said["error"]
        assert done.stderr


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://127.0.0.1:99999", "http://", "http://\udcff", "http://127.0.0.1:x"]
)
def test_what_is_no_url_is_said_in_words(url):
    for command in (["verify", url], ["search", "--url", url]):
        assert run(*command, AUDIT_KEYS=KEYS).returncode == 2


def test_output_that_cannot_be_written_is_no_verdict(spool):
    (segment,) = spool.glob("streams/*/seg-*")
    segment.write_bytes(segment.read_bytes().replace(b"test.", b"best."))
    command = f"{sys.executable} -m audit_middleware verify {spool}"
    for rest, code in (("> /dev/full", 2), ("--json > /dev/full", 2), ("| true; exit ${PIPESTATUS[0]}", 141)):
        done = subprocess.run(
            ["bash", "-c", f"{command} {rest}"], env={**os.environ, "AUDIT_KEYS": KEYS}, capture_output=True, text=True
        )
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_an_error_nobody_foresaw_is_no_verdict(monkeypatch, capsys):
    from audit_middleware import cli

    def fail(*_, **__):
        raise RuntimeError("boom")

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "RuntimeError: boom" in capsys.readouterr().err


def test_an_interrupted_command_is_no_verdict(monkeypatch):
    import click

    from audit_middleware import cli

    for error in (KeyboardInterrupt, click.exceptions.Abort):
        monkeypatch.setattr(cli.cli, "main", lambda *_, error=error, **__: (_ for _ in ()).throw(error()))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 130


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b"<html>hi</html>")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("command", [["verify"], ["search", "--url"], ["search", "--json", "--url"]])
def test_a_page_of_a_proxy_is_neither_a_collector_nor_tampering(command):
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            done = run(*command, f"http://127.0.0.1:{server.server_port}", AUDIT_KEYS=KEYS)
        finally:
            server.shutdown()
            thread.join()
    assert (done.returncode, "no collector does" in done.stderr) == (2, True)


def test_keys_new_keeps_every_key_that_is_in_the_file(tmp_path):
    file = tmp_path / "keys"
    assert run("keys", "new", "a", "--file", str(file)).returncode == 0
    first = file.read_text()
    done = run("keys", "new", "a", "--file", str(file))
    assert (done.returncode, "already" in done.stderr, file.read_text()) == (2, True, first)
    file.write_text(first.rstrip("\n"))
    assert run("keys", "new", "b", "--file", str(file)).returncode == 0
    assert json.loads(run("keys", "list", "--json", AUDIT_KEY_FILE=str(file)).stdout)["kids"] == ["a", "b"]


def test_keys_new_writes_to_regular_files_only(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    for file in (tmp_path / "fifo", tmp_path):
        assert run("keys", "new", "a", "--file", str(file)).returncode == 2


def test_rebuild_index_touches_no_folder_that_is_no_data_folder(tmp_path):
    (tmp_path / "index.sqlite").write_text("precious")
    done = run("rebuild-index", "--data", str(tmp_path), AUDIT_KEYS=KEYS)
    assert (done.returncode, "collector.json" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["index.sqlite"]


def test_rebuild_index_takes_the_guard_and_asks_for_it(tmp_path):
    test_search_reads_a_data_folder_without_its_collector(tmp_path)
    arguments = ["rebuild-index", "--data", str(tmp_path / "data")]
    without = run(*arguments, AUDIT_KEYS=f"k1:{'A' * 43}")
    assert (without.returncode, "--guard" in without.stderr) == (2, True)
    assert run(*arguments, "--guard", str(tmp_path / "guard"), AUDIT_KEYS=f"k1:{'A' * 43}").returncode == 0


def test_search_in_a_folder_writes_nothing_there(tmp_path):
    test_search_reads_a_data_folder_without_its_collector(tmp_path)
    before = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert run("search", "--data", str(tmp_path / "data")).returncode == 0
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == before


def test_a_data_folder_others_can_reach_is_told(tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    command = [sys.executable, "-m", "audit_middleware", "collect", "--data", str(data), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, env={**os.environ, "AUDIT_KEYS": KEYS}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0
        assert f"chmod 700 {data}" in process.stderr.read()
    assert {path.stat().st_mode & 0o077 for path in data.rglob("*")} == {0}


def test_a_spool_that_is_not_there_is_told_and_not_made(tmp_path):
    (tmp_path / "empty" / "streams").mkdir(parents=True)
    for command in (["spool", "status"], ["spool", "export"], ["verify"]):
        for path in (tmp_path / "missing", tmp_path / "empty"):
            done = run(*command, str(path), AUDIT_KEYS=KEYS)
            assert done.returncode == 2
            assert "nothing there" in done.stderr or "neither a spool" in done.stderr
    assert not (tmp_path / "missing").exists()
    assert run("spool", "status", AUDIT_SPOOL_DIR=str(tmp_path / "missing")).returncode == 2


@pytest.fixture
def littered(spool):
    """A spool with strays of every kind beside its journal."""
    streams = spool / "streams"
    (stream,) = streams.iterdir()
    (streams / "notes.txt").write_text("x")
    (streams / "dangling").symlink_to("nowhere")
    (streams / ("A" * 22)).write_text("a file by the name of a stream")
    os.mkfifo(streams / ("B" * 21 + "A"))
    (stream / "notes.txt").write_text("x")
    (stream / "seg-0000000007.ndjson").symlink_to("nowhere")
    os.mkfifo(stream / "seg-0000000008.ndjson")
    return spool


def test_strays_in_a_spool_are_named_and_everything_else_is_verified(littered):
    report = json.loads(run("verify", str(littered), "--json", AUDIT_KEYS=KEYS).stdout)
    assert (report["exit_code"], report["counts"]["lines"]) == (2, 22)
    assert {finding["rule"] for finding in report["findings"]} == {"unreadable"}
    assert len(report["findings"]) == 7


def test_strays_in_a_spool_do_not_stop_export_and_status(littered):
    exported = run("spool", "export", str(littered))
    assert (exported.returncode, len(exported.stdout.splitlines())) == (2, 22)
    assert run("spool", "status", str(littered)).returncode == 0


def test_ship_says_that_another_process_holds_the_lines(spool):
    import fcntl

    (stream,) = (spool / "streams").iterdir()
    with open(stream / "outbox", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("ship", str(spool), "--timeout", "0.3", AUDIT_COLLECTOR_URL="http://127.0.0.1:9")
    assert (done.returncode, "held by another process" in done.stderr) == (2, True)


def test_a_page_of_unknown_keys_is_one_line_and_a_hint(spool):
    text = run("verify", str(spool), AUDIT_KEYS=new_key("other")).stdout
    assert "21 more like this" in text
    assert "AUDIT_KEY_FILE" in text
    assert len(text.splitlines()) < 12
