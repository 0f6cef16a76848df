"""Keys: where they come from, what is refused, and that none is ever shown."""

import os
import threading

import pytest

from audit_middleware.errors import ConfigurationError, UnknownKey
from audit_middleware.sealing.keys import Keyring, development_keyring, new_key, parse_keys, read_key_file

GOOD = "k1:" + "A" * 43


def test_the_last_key_seals_and_all_verify():
    keyring = parse_keys(f"{new_key('old')},{new_key('new')}")
    assert keyring.newest == "new"
    assert keyring.stream_key("old", bytes(16)) != keyring.stream_key("new", bytes(16))


def test_a_stream_has_a_key_of_its_own():
    keyring = parse_keys(GOOD)
    assert keyring.stream_key("k1", bytes(16)) != keyring.stream_key("k1", b"1" * 16)


def test_an_unknown_key_is_named():
    with pytest.raises(UnknownKey, match="'k2' is not in the keyring"):
        parse_keys(GOOD).stream_key("k2", bytes(16))


def test_no_key_shows_in_repr():
    assert "AAAA" not in repr(parse_keys(GOOD))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("k1", "0 bytes; a key needs at least 32"),
        ("k1:short", "8 bytes|needs at least|not base64url"),
        ("k1:" + "A" * 42, "needs at least 32"),
        ("k1:" + "!" * 43, "not base64url"),
        ("spaced name:" + "A" * 43, "expected kid"),
        ("x" * 33 + ":" + "A" * 43, "expected kid"),
        (f"{GOOD},{GOOD}", "'k1' is there twice"),
        ("k1:" + "A" * 42 + "B", "not base64url"),
    ],
)
def test_a_bad_key_is_refused_with_its_position_and_without_its_bytes(text, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse_keys(text)
    assert "AAAA" not in str(caught.value)
    assert "AUDIT_KEYS" in str(caught.value)


def test_no_key_at_all_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="audit-ready keys new"):
        Keyring({})


def test_a_key_file_is_read_with_comments_and_lines(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# rotated in 2026\n{new_key('a')}\n\n{new_key('b')}  # seals\n")
    file.chmod(0o600)
    assert list(read_key_file(file).keys) == ["a", "b"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_key_file_others_can_read_is_refused(tmp_path, mode):
    file = tmp_path / "keys"
    file.write_text(GOOD)
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_key_file(file)


def test_a_key_file_that_is_a_link_a_folder_or_missing_is_refused(tmp_path):
    target = tmp_path / "keys"
    target.write_text(GOOD)
    target.chmod(0o600)
    (tmp_path / "link").symlink_to(target)
    for name in ("link", "", "nothing"):
        with pytest.raises(ConfigurationError, match="key file"):
            read_key_file(tmp_path / name)


def test_the_development_key_is_made_once_and_kept_private(tmp_path):
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    first = development_keyring(environ)
    assert first.is_development
    assert development_keyring(environ).keys == first.keys
    assert os.stat(tmp_path / "audit-ready" / "dev.key").st_mode & 0o777 == 0o600


def test_processes_that_make_the_development_key_at_once_agree(tmp_path):
    environ, found = {"XDG_STATE_HOME": str(tmp_path)}, []
    threads = [threading.Thread(target=lambda: found.append(development_keyring(environ))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(keyring.keys.values()) for keyring in found}) == 1
    assert os.listdir(tmp_path / "audit-ready") == ["dev.key"]


def test_a_state_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="set AUDIT_KEYS"):
        development_keyring({"XDG_STATE_HOME": str(tmp_path / "file")})


def test_hkdf_is_rfc_5869_with_the_stream_as_salt():
    import hmac

    keyring, stream = parse_keys(GOOD), bytes(range(16))
    extracted = hmac.digest(stream, bytes(32), "sha256")
    expected = hmac.digest(extracted, b"audit-middleware/stream/v1\x01", "sha256")
    assert keyring.stream_key("k1", stream) == expected


def test_a_key_file_too_long_is_refused_and_never_cut(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# " + "x" * 65536 + "\n" + new_key("k1") + "\n")
    file.chmod(0o600)
    with pytest.raises(ConfigurationError, match="at most 65536"):
        read_key_file(file)


def test_a_fifo_is_no_key_file_and_blocks_nobody(tmp_path):
    import os

    os.mkfifo(tmp_path / "keys", 0o600)
    with pytest.raises(ConfigurationError, match="regular file"):
        read_key_file(tmp_path / "keys")
