"""A real Prometheus and a real Alertmanager: a finding of a real collector arrives at a webhook, on both ways."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.collector.alerts.receivers import HttpReceiver
from tests.collector.kit import App

pytestmark = pytest.mark.alerting
ROOT = Path(__file__).parents[2]
RULES = ROOT / "integrations" / "prometheus"
SERVER = """
import sys
from pathlib import Path
from audit_middleware.collector.alerts.settings import convert
from audit_middleware.collector.serve import serve
from tests.collector.kit import settings_for
alerts = convert([{"kind": "alertmanager", "name": "own", "url": sys.argv[2], "heartbeat": True}])
serve(settings_for(Path(sys.argv[1]), port=0, alerts=alerts), lambda collector, url: print(url, flush=True))
"""


def program(name):
    found = shutil.which(name)
    assert found, f"{name} is not installed here: apt-get install prometheus prometheus-alertmanager"
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def run():
    processes = []

    def start(*command, **given):
        processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, **given))
        return processes[-1]

    yield start
    for process in reversed(processes):
        process.terminate()
        process.wait(20)


@pytest.fixture
def webhook():
    receiver = HttpReceiver()
    yield receiver
    receiver.close()


def answer(url, seconds=20):
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return response.read()
        except OSError:
            assert time.monotonic() < until, url
            time.sleep(0.1)


def alerts_of(receiver):
    return {alert["labels"]["alertname"]: alert for request in receiver.taken for alert in request.json["alerts"]}


def test_the_rules_pass_their_unit_tests():
    done = subprocess.run(
        [program("promtool"), "test", "rules", "audit-ready.tests.yml"], cwd=RULES, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_finding_reaches_a_webhook_through_prometheus_and_through_our_own_sink(run, webhook, tmp_path):
    manager, prometheus = free_port(), free_port()
    (tmp_path / "am.yml").write_text(f"""
route: {{receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: hook, webhook_configs: [{{url: "{webhook.url}/hook", send_resolved: true}}]}}]
""")
    run(
        program("prometheus-alertmanager"),
        f"--config.file={tmp_path / 'am.yml'}",
        f"--storage.path={tmp_path / 'am'}",
        f"--web.listen-address=127.0.0.1:{manager}",
        "--cluster.listen-address=",
    )
    answer(f"http://127.0.0.1:{manager}/-/ready")
    own = [sys.executable, "-c", SERVER, str(tmp_path / "collector"), f"http://127.0.0.1:{manager}"]
    collector = run(*own, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    url = collector.stdout.readline().strip()
    (tmp_path / "p.yml").write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{RULES / "audit-ready.rules.yml"}"]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{manager}"]}}]}}]}}
scrape_configs: [{{job_name: audit-collector, static_configs: [{{targets: ["{url.removeprefix("http://")}"]}}]}}]
""")
    run(
        program("prometheus"),
        f"--config.file={tmp_path / 'p.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{prometheus}",
    )
    app = App()
    app.requests(3)
    urllib.request.urlopen(f"{url}/v1/records", b"\n".join([app.lines[0], app.lines[3]]), timeout=5).close()
    expected = {"AuditFindingCritical", "AuditFinding", "AuditCollectorAlive"}
    webhook.wait(lambda receiver: expected <= alerts_of(receiver).keys(), 40)
    found = alerts_of(webhook)
    assert found["AuditFindingCritical"]["labels"]["kind"] == "gap"
    assert found["AuditFinding"]["labels"]["service"] == "orders"
    urllib.request.urlopen(f"{url}/v1/records", b"\n".join(app.lines[1:3]), timeout=5).close()
    webhook.wait(lambda receiver: alerts_of(receiver)["AuditFinding"]["status"] == "resolved", 30)
    webhook.wait(lambda receiver: alerts_of(receiver)["AuditFindingCritical"]["status"] == "resolved", 40)
    collector.stdout.close()
