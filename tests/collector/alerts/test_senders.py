"""Every kind of sink against a receiver on loopback, which fails in every way a network knows."""

import base64
import email
import email.policy
import logging
import time

import pytest

from audit_middleware.collector.alerts.door import AlertFailed
from audit_middleware.collector.alerts.message import Crowd, Message, News
from audit_middleware.collector.alerts.senders import make_sender
from audit_middleware.collector.alerts.settings import convert
from audit_middleware.collector.alerts.webhook import SIGNATURE, TIMESTAMP, is_signed
from audit_middleware.collector.monitor.findings import Finding
from audit_middleware.errors import ConfigurationError

SECRET = "a-secret-0123456789abcdef"
FAULTS = ["lost", "unanswered", "slow", "garbage", "redirect", 500, 404, 429]


def finding(**changes):
    given = {
        "id": "0123456789abcdef",
        "kind": "gap",
        "about": "s",
        "severity": "critical",
        "state": "open",
        "service": "orders",
        "stream": "s",
        "first_seen": "2026-11-24T10:00:00.000000Z",
        "last_seen": "2026-11-24T10:00:01.000000Z",
        "evidence": {"missing": [[1, 2]], "lines": 2},
    }
    return Finding(**(given | changes))


def message(change="opened", *, crowds=(), is_first=True, **changes):
    news = News(id="n1", change=change, finding=finding(**changes), is_first=is_first)
    now = time.time()
    return Message(collector="audit.test", now=now, sent_at="2026-11-24T10:00:02.000000Z", news=(news,), crowds=crowds)


def sender(kind, url, **changes):
    given = {
        "webhook": {"url": f"{url}/hook", "secret_env": "S"},
        "slack": {"url_env": "U"},
        "pagerduty": {"url": f"{url}/pagerduty", "routing_key_env": "S"},
        "alertmanager": {"url": url, "token_env": "S"},
    }[kind]
    (settings,) = convert([{"kind": kind, "name": "x", "timeout_seconds": 0.4} | given | changes])
    return make_sender(settings, {"S": SECRET, "U": f"{url}/slack"})


def test_a_webhook_can_tell_whose_message_it_is_and_when_it_was_sent(receiver):
    sender("webhook", receiver.url).send(message())
    (request,) = receiver.taken
    timestamp, signature, now = request.headers[TIMESTAMP], request.headers[SIGNATURE], time.time()
    assert is_signed(SECRET.encode(), timestamp, signature, request.body, now)
    assert not is_signed(b"another", timestamp, signature, request.body, now)
    assert not is_signed(SECRET.encode(), timestamp, signature, request.body + b" ", now)
    assert not is_signed(SECRET.encode(), str(int(timestamp) + 1), signature, request.body, now)
    assert not is_signed(SECRET.encode(), timestamp, signature, request.body, now + 301)
    assert not is_signed(SECRET.encode(), "x", "é", request.body, now)
    said = request.json
    assert (said["collector"], said["news"][0]["change"], said["news"][0]["finding"]["kind"]) == (
        "audit.test",
        "opened",
        "gap",
    )
    assert said["news"][0]["finding"]["remedy"]
    assert SECRET.encode() not in request.body
    assert SECRET not in str(request.headers)


@pytest.mark.parametrize("kind", ["webhook", "slack", "pagerduty", "alertmanager"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_not_confirmed_has_failed_and_says_no_secret(receiver, kind, fault, caplog):
    caplog.set_level(logging.DEBUG)
    receiver.faults.append(fault)
    made = sender(kind, receiver.url)
    with pytest.raises(AlertFailed) as failed:
        made.send(message())
    assert made.send(message())
    made.close()
    assert len(receiver.taken) == (2 if fault in {"unanswered", "slow"} else 1)
    assert receiver.taken[-1].path != "/elsewhere"
    said = str(failed.value) + caplog.text
    assert SECRET not in said
    assert "/slack" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize("kind", ["slack", "pagerduty"])
def test_a_page_of_somebody_else_is_no_confirmation(receiver, kind):
    receiver.faults.append(200)
    with pytest.raises(AlertFailed, match="answers 200"):
        sender(kind, receiver.url).send(message())


def test_a_sink_that_nobody_serves_is_said_in_words():
    with pytest.raises(AlertFailed, match=r"http://127\.0\.0\.1:9 ConnectError"):
        sender("webhook", "http://127.0.0.1:9").send(message())


def test_no_proxy_of_the_environment_is_used(receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert sender("webhook", receiver.url).send(message())


def test_nothing_an_application_calls_itself_is_markup_in_slack(receiver):
    sender("slack", receiver.url).send(message(service="<!channel> ``` \x1b[31m & <@U1>"))
    text = receiver.taken[0].json["text"]
    assert "<!" not in text
    assert "<@" not in text
    assert "\x1b" not in text
    assert text.count("```") == 2


def test_pagerduty_gets_one_incident_for_a_finding_through_its_life(receiver):
    made = sender("pagerduty", receiver.url)
    made.send(message())
    made.send(message("acknowledged", is_first=False, state="acknowledged"))
    made.send(message("resolved", is_first=False, state="resolved"))
    events = [each.json for each in receiver.taken]
    assert [each["event_action"] for each in events] == ["trigger", "acknowledge", "resolve"]
    assert {each["dedup_key"] for each in events} == {"audit.test/0123456789abcdef"}
    assert all(each["routing_key"] == SECRET for each in events)
    assert events[0]["payload"]["severity"] == "critical"


def test_pagerduty_hears_of_what_ended_before_it_could_be_told_and_of_crowds(receiver):
    made = sender("pagerduty", receiver.url)
    crowd = Crowd(kind="gap", severity="critical", opened=9, open=9, unresolved=9)
    made.send(message("resolved", crowds=(crowd,), state="resolved"))
    over = Crowd(kind="gap", severity="critical", resolved=9)
    made.send(Message(collector="audit.test", now=0.0, sent_at="", crowds=(over,)))
    assert [(each.json["event_action"], each.json["dedup_key"][11:]) for each in receiver.taken] == [
        ("trigger", "0123456789abcdef"),
        ("resolve", "0123456789abcdef"),
        ("trigger", "many/gap"),
        ("resolve", "many/gap"),
    ]


def test_alertmanager_gets_what_fires_with_a_later_end_and_what_is_over_with_a_past_one(receiver):
    made = sender("alertmanager", receiver.url)
    first, over = message(), message("resolved", state="resolved")
    made.send(first)
    made.send(over)
    request = receiver.taken[0]
    assert (request.path, request.headers["authorization"]) == ("/api/v2/alerts", f"Bearer {SECRET}")
    (firing,), (ended,) = (each.json for each in receiver.taken)
    assert firing["labels"] == ended["labels"]
    assert firing["labels"]["service"] == "orders"
    assert firing["startsAt"] == "2026-11-24T10:00:00.000000Z"
    assert firing["endsAt"] > ended["endsAt"] > firing["startsAt"]


def mailer(port, certificate=None, **changes):
    given = {"host": "127.0.0.1", "port": port, "sender": "audit@example.com", "to": ["a@example.com", "b@example.com"]}
    given |= {"security": "none"} if certificate is None else {"ca_file": str(certificate)}
    (settings,) = convert([{"kind": "email", "name": "x", "timeout_seconds": 2.0} | given | changes])
    return make_sender(settings, {"S": SECRET})


def test_a_mail_goes_over_starttls_with_a_password_and_to_everybody(mail_receiver, certificate):
    server = mail_receiver(certificate=certificate)
    answer = mailer(server.port, certificate, user="audit", password_env="S").send(message(service="a\r\nBcc: x@y"))
    assert answer == "accepted for 2 recipients"
    ((is_secret, login),) = server.logins
    assert is_secret
    assert base64.b64decode(login) == f"\0audit\0{SECRET}".encode()
    mail = email.message_from_bytes(server.mails[0], policy=email.policy.default)
    assert mail["Bcc"] is None
    assert "critical gap" in mail["Subject"]
    assert "missing=[[1, 2]]" in mail.get_content()


def test_no_mail_goes_without_the_encryption_that_was_asked_for(mail_receiver, certificate):
    server = mail_receiver()
    with pytest.raises(AlertFailed, match="STARTTLS"):
        mailer(server.port, certificate).send(message())
    other = mail_receiver(certificate=certificate)
    with pytest.raises(AlertFailed, match="CERTIFICATE_VERIFY_FAILED"):
        mailer(other.port, certificate, ca_file=None).send(message())
    assert server.mails == other.mails == []


@pytest.mark.parametrize("fault", ["lost", "refuses", "login"])
def test_a_mail_that_was_not_taken_has_failed_and_says_no_password(mail_receiver, certificate, fault):
    server = mail_receiver(certificate=certificate, fault=fault)
    with pytest.raises(AlertFailed) as failed:
        mailer(server.port, certificate, user="audit", password_env="S").send(message())
    assert SECRET not in str(failed.value)
    assert server.mails == []


def test_a_mail_whose_confirmation_was_lost_comes_again_with_the_same_id(mail_receiver):
    server = mail_receiver(fault="unanswered")
    made, sent = mailer(server.port), message()
    with pytest.raises(AlertFailed):
        made.send(sent)
    made.send(sent)
    assert len({email.message_from_bytes(mail)["Message-ID"] for mail in server.mails}) == 1
    assert len(server.mails) == 2


HOOK = {"kind": "webhook", "name": "x", "url": "https://a.example/x", "secret_env": "S"}
MAIL = {"kind": "email", "name": "x", "host": "mail.example", "sender": "a@b", "to": ["c@d"]}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (HOOK | {"name": "X y"}, "name: a-z"),
        (HOOK | {"severity": "loud"}, "severity: Invalid enum value 'loud'"),
        (HOOK | {"colour": 1}, "unknown field `colour`"),
        (HOOK | {"kind": "pigeon"}, "Invalid value 'pigeon'"),
        (HOOK | {"kinds": ["gap", "gaps"]}, "'gaps' is no kind of finding"),
        (HOOK | {"url": "ftp://a"}, r"http\(s\) URL is expected"),
        (HOOK | {"url": "https://u:p@a.example/"}, "password in it"),
        (HOOK | {"url": "https://a.example/?token=1"}, "a query often carries a secret"),
        (HOOK | {"secret_file": "/x"}, "both set"),
        ({"kind": "pagerduty", "name": "x", "url": "http://a.example"}, "only sent by https"),
        ({"kind": "heartbeat", "name": "x"}, "one of url, url_file and url_env"),
        (MAIL | {"security": "none"}, "on this machine"),
        (MAIL | {"user": "a"}, "belong together"),
        (MAIL | {"to": []}, "to: Expected `array` of length >= 1"),
        (MAIL | {"to": ["nobody"]}, "is no mail address"),
        ("text", "Expected `object`"),
    ],
)
def test_a_mistake_in_a_table_is_named(table, said):
    with pytest.raises(ConfigurationError, match=rf"alerts\[1\].*{said}.*docs/alerts.md"):
        convert([HOOK | {"name": "first"}, table])


@pytest.mark.parametrize(
    ("environ", "said"),
    [({}, "nothing usable"), ({"S": "tiny"}, "too short"), ({"S": "a\nb" * 20}, "nothing usable")],
)
def test_a_secret_that_is_not_there_is_named_and_not_shown(environ, said):
    (settings,) = convert([HOOK])
    with pytest.raises(ConfigurationError, match=said) as refused:
        make_sender(settings, environ)
    assert environ.get("S", "?") not in str(refused.value)


def test_a_secret_in_a_file_is_rotated_without_a_restart(tmp_path, receiver, caplog):
    file = tmp_path / "webhook.secret"
    file.write_text(SECRET)
    table = {"kind": "webhook", "name": "hook", "url": receiver.url, "secret_file": str(file)}
    (settings,) = convert([table])
    sender = make_sender(settings, {})

    def signed_with(secret):
        sender.send(message())
        request = receiver.taken[-1]
        timestamp = request.headers[TIMESTAMP]
        return is_signed(secret.encode(), timestamp, request.headers[SIGNATURE], request.body, float(timestamp))

    assert signed_with(SECRET)
    file.write_text("another-secret-0123456789")
    assert signed_with("another-secret-0123456789")
    assert not signed_with(SECRET)
    for unusable in ("", "short"):  # as amid a rotation
        file.write_text(unusable)
        assert signed_with("another-secret-0123456789")
    file.unlink()
    assert signed_with("another-secret-0123456789")
    file.write_text(SECRET)
    assert signed_with(SECRET)
    sender.close()
    assert SECRET not in caplog.text
    assert "another-secret" not in caplog.text
    assert "keeps the secret it had" in caplog.text


def test_the_token_of_an_alertmanager_and_the_url_of_a_heartbeat_are_rotated_too(tmp_path, receiver):
    file = tmp_path / "secret"
    file.write_text("first-token-0123456789")
    (settings,) = convert([{"kind": "alertmanager", "name": "am", "url": receiver.url, "token_file": str(file)}])
    sender = make_sender(settings, {})
    sender.send(message())
    file.write_text("second-token-0123456789")
    sender.send(message())
    found = [each.headers["authorization"] for each in receiver.taken]
    assert found == ["Bearer first-token-0123456789", "Bearer second-token-0123456789"]
    file.write_text(f"{receiver.url}/one")
    (settings,) = convert([{"kind": "heartbeat", "name": "hb", "url_file": str(file)}])
    beater = make_sender(settings, {})
    beater.send(message())
    file.write_text(f"{receiver.url}/two")
    beater.send(message())
    assert [each.path for each in receiver.taken[-2:]] == ["/one", "/two"]
