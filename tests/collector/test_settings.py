from pathlib import Path

import pytest

from audit_middleware.collector.auth import OPEN_DOOR, Tokens, TokenSetting, parse_tokens
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.settings import is_loopback, parse_listen, read_settings
from audit_middleware.errors import ConfigurationError, StorageError
from tests.collector.kit import KEYRING, settings_for, token_digest

KEYS = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
TOKEN = "a-token-of-some-length"


def read(tmp_path, toml, environ=None, **explicit):
    file = tmp_path / "collector.toml"
    file.write_text(toml)
    return read_settings(file, {"AUDIT_KEYS": KEYS} | (environ or {}), **explicit)


def test_defaults_are_loopback_and_a_folder_beside(tmp_path):
    settings = read_settings(None, {"AUDIT_KEYS": KEYS, "HOME": str(tmp_path)})
    assert (settings.host, settings.port, settings.data) == ("127.0.0.1", 8600, Path("audit-data"))
    assert settings.tokens == []
    assert settings.keyring == KEYRING


def test_explicit_beats_file_beats_environment(tmp_path):
    environ = {"AUDIT_COLLECTOR_LISTEN": "127.0.0.1:1", "AUDIT_COLLECTOR_DATA": "env", "AUDIT_COLLECTOR_NAME": "env"}
    settings = read(tmp_path, 'listen = "127.0.0.1:2"\ndata = "file"\n', environ, data="given", name=None)
    assert (settings.port, settings.data, settings.name) == (2, Path("given"), "env")


def test_a_file_with_everything(tmp_path):
    settings = read(
        tmp_path,
        f"""
        listen = "0.0.0.0:8600"
        public_log = true
        guard = "/somewhere"
        [[tokens]]
        name = "app"
        sha256 = "{token_digest(TOKEN)}"
        services = ["orders"]
        [limits]
        body_lines = 10
        """,
    )
    assert settings.tokens[0].services == ["orders"]
    assert (settings.limits.body_lines, settings.public_log) == (10, True)
    assert settings.guard_folder == Path("/somewhere")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("colour = 1", "colour: not a setting"),
        ("[limits]\nbody_byte = 1", "limits.body_byte: not a setting"),
        ("[limits]\nbody_bytes = 'x'", "limits.body_bytes: Expected `int`"),
        ("[limits]\nqueue_bytes = 0", "limits.queue_bytes: Expected `int` >= 1"),
        ("data = 7", "data: Expected `str`"),
        ("public_log = 'yes'", "public_log: Expected `bool`"),
        ("[[tokens]]\nname = 'x'", r"tokens\[0\]|tokens\[...\]"),
        ("listen = 'nowhere'", "expected HOST:PORT"),
        ("listen = '127.0.0.1:99999'", "expected HOST:PORT"),
        ("name = 'a b'", "no spaces"),
        ("not toml", "is not TOML"),
        ("listen = '0.0.0.0:1'", "without tokens"),
        ("listen = '[::]:1'", "without tokens"),
        ("keys = 'k1:x'\nkey_file = '/x'", "both set"),
        ("key_file = '/x'", "key file /x: No such file"),  # though keys are in the environment,
    ],
)
def test_a_mistake_is_named(tmp_path, toml, message):
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, toml)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('\n[monitor]\nsettle_seconds = 1.0\nlag_seconds = "x"\n', "line 4: monitor.lag_seconds: Expected `float`"),
        ("[monitor]\nsilence_second = 3.0\n", "line 2: monitor.silence_second: not a setting; is it silence_seconds?"),
        ('\n[monitor.silence_by_service]\nshop = "1h"\n', "line 2: monitor.silence_by_service"),
        ("[limits]\nbody_bytes = 0\n", "line 2: limits.body_bytes: Expected `int` >= 1"),
        ("\n\nlisten = 8600\n[limits]\nbody_bytes = 1\n", "line 3: listen: Expected `str`"),
        ('[retention]\nkeep = "1y"\n', "line 1: retention: Expected `array`"),
        ('\nretention = [{keep = "1d", profile = "pci"}]\n', "line 2: retention[0] (class 'default'): keep 1d is less"),
        ('[[retention]]\nkeep = "1y"\nprofle = "pci"\n', "line 1: retention[0].profle: not a setting; is it profile?"),
        ('[[retention]]\nkeep = "1y"\nprofile = "sox"\n', "Invalid enum value 'sox'; expected one of hipaa, pci"),
        ('[[retention]]\nkeep = "365d"\nprofile = "pci"\n', 'say keep = "1y" or more, in days 366d'),
        ('\n[[tokens]]\nname = "a"\ntoken = "abc"\nservices = ["*"]\n', "line 2: tokens[0]: token 'a': a token has at"),
        (
            '[[tokens]]\nname = "a"\nroles = ["king"]\nservices = ["*"]\n',
            "expected one of admin, auditor, ingest, reader",
        ),
        ("[zebra]\nx = 1\n", "line 1: zebra: not a setting; expected one of alerts, data"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line_and_what_is_right(tmp_path, toml, message):
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, toml)
    assert str(error.value).startswith(f"{tmp_path}/collector.toml, line ")
    assert message in str(error.value)


def test_the_file_is_named_in_its_mistakes(tmp_path):
    with pytest.raises(ConfigurationError, match=r"collector\.toml"):
        read(tmp_path, "colour = 1")
    with pytest.raises(ConfigurationError, match=r"absent\.toml"):
        read_settings(tmp_path / "absent.toml", {})


def test_without_keys_the_development_key_is_used(tmp_path):
    settings = read_settings(None, {"XDG_STATE_HOME": str(tmp_path)})
    assert settings.keyring.is_development


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_loopback(host, loopback):
    assert is_loopback(host) is loopback


def test_listen_knows_ipv6():
    assert parse_listen("[::1]:8600") == ("::1", 8600)


def test_a_non_loopback_bind_without_tokens_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="without tokens"):
        settings_for(tmp_path, host="0.0.0.0")
    token = TokenSetting(name="app", services=["*"], token=TOKEN)
    assert settings_for(tmp_path, host="0.0.0.0", tokens=[token]).host == "0.0.0.0"


def test_tokens_from_the_environment():
    one, two = parse_tokens(f"app:{TOKEN}:orders|billing, reader:{TOKEN}2:*:reader|ingest")
    assert (one.name, one.services, one.roles) == ("app", ["orders", "billing"], ["ingest"])
    assert (two.services, two.roles) == (["*"], ["reader", "ingest"])


@pytest.mark.parametrize(
    "text",
    [
        "app",
        f"app:{TOKEN}",
        f"app:{TOKEN}:",
        f":{TOKEN}:x",
        f"app:{TOKEN}:x:king",
        "app:short:x",
        f"app:{TOKEN}:x:ingest:y",
    ],
)
def test_a_bad_token_is_named_without_its_secret(text):
    with pytest.raises(ConfigurationError) as error:
        Tokens(parse_tokens(text))
    assert TOKEN not in str(error.value)
    assert "short" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"token": None}, {"sha256": "0" * 64}, {"token": None, "sha256": "xyz"}, {"services": []}]
)
def test_a_token_is_given_once_and_whole(changes):
    with pytest.raises(ConfigurationError):
        Tokens([TokenSetting(**({"name": "app", "services": ["*"], "token": TOKEN} | changes))])


def test_a_name_or_a_token_cannot_be_there_twice():
    one = TokenSetting(name="app", services=["*"], token=TOKEN)
    with pytest.raises(ConfigurationError, match="twice"):
        Tokens([one, TokenSetting(name="app", services=["*"], token=TOKEN + "2")])
    with pytest.raises(ConfigurationError, match="twice"):
        Tokens([one, TokenSetting(name="other", services=["*"], sha256=token_digest(TOKEN))])


def test_a_token_does_not_show_in_its_repr():
    assert TOKEN not in repr(TokenSetting(name="app", services=["*"], token=TOKEN))
    assert TOKEN not in repr(settings_for(Path("x"), tokens=[TokenSetting(name="app", services=["*"], token=TOKEN)]))


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", f"bearer{TOKEN}", f"Basic {TOKEN}", "Bearer \udcff"])
def test_what_is_no_known_bearer_token_is_401(header):
    tokens = Tokens([TokenSetting(name="app", services=["*"], token=TOKEN)])
    with pytest.raises(Problem) as refused:
        tokens.authenticate(header)
    assert refused.value.status == 401


def test_without_tokens_the_door_is_open():
    assert Tokens([]).authenticate(None) is OPEN_DOOR


def test_the_name_of_a_log_is_remembered(settings, tmp_path):
    with Collector(settings) as collector:
        assert collector.vkeys[0].startswith("audit.test/default/")
    with Collector(settings_for(tmp_path, name=None)) as collector:
        assert collector.vkeys[0].startswith("audit.test/default/")
    with pytest.raises(ConfigurationError, match="keeps its name"):
        Collector(settings_for(tmp_path, name="other")).open()


def test_the_log_key_is_made_once_and_for_its_owner_only(settings):
    with Collector(settings) as collector:
        before = collector.vkeys
    file = settings.data / "log.key"
    assert file.stat().st_mode & 0o777 == 0o600
    with Collector(settings) as collector:
        assert collector.vkeys == before
        assert (settings.data / "log.vkey").read_text() == "".join(f"{vkey}\n" for vkey in before)
    file.chmod(0o644)
    with pytest.raises(StorageError, match="0600"):
        Collector(settings).open()
    file.unlink()
    with pytest.raises(StorageError, match="put it back"):
        Collector(settings).open()


def test_a_data_folder_put_back_from_a_backup_refuses_to_start(settings, tmp_path):
    import shutil

    from audit_middleware.errors import RollbackDetected

    with Collector(settings):
        pass
    shutil.copytree(settings.data, tmp_path / "backup")
    with Collector(settings):
        pass
    shutil.rmtree(settings.data)
    shutil.copytree(tmp_path / "backup", settings.data)
    with pytest.raises(RollbackDetected):
        Collector(settings).open()


@pytest.mark.parametrize("name", ["a b", "a+b", "a,b", "zürich", "", "a\tb", "x" * 256])
def test_a_name_that_cannot_travel_in_a_header_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="name"):
        settings_for(tmp_path, name=name)
