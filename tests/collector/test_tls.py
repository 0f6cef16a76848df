"""TLS at the collector itself: who a client is, its certificate says; what it may deliver, the configuration."""

import datetime as dt
import ipaddress
import json
import os
import subprocess
import sys

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from audit_middleware.collector.auth import Tokens, TokenSetting
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.settings import TLSSettings, read_settings
from audit_middleware.config import check, load
from audit_middleware.errors import ConfigurationError, DeliveryError
from audit_middleware.sealing.text import b64url
from audit_middleware.shipping.delivery import HTTPTransport, TLSFiles
from tests.collector.kit import KEY, App, settings_for
from tests.shipping.kit import wait_until

TOKENS = [
    TokenSetting(name="orders", services=["orders"], certificate="orders.internal"),
    TokenSetting(name="both", services=["*"], token="both-0123456789abcdef", certificate="spiffe://shop/both"),
    TokenSetting(name="plain", services=["*"], roles=["reader"], token="plain-0123456789abcdef"),
]

SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


class Authority:
    """A CA of the test's own that makes certificates."""

    def __init__(self, folder, name):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name, *alternatives, days=1):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(alternatives) if alternatives else None
        certificate = self._sign(subject, key, names, days=days)
        file = self.folder / f"{name}.pem"
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *plain)
        )
        return file

    def _sign(self, subject, key, extension, days=1):
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=2))
        builder = builder.not_valid_after(now + dt.timedelta(days=days))
        # the key identifiers and the key usage of a CA are what OpenSSL asks for where CPython 3.13 tells it to be strict
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(issued_by, critical=False).add_extension(own, critical=False)
        if extension is not None:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        if isinstance(extension, x509.BasicConstraints):
            builder = builder.add_extension(SIGNS_CERTIFICATES, critical=True)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ca")


@pytest.fixture
def url(tmp_path, authority):
    """A collector as it is really run."""
    server = authority.issue("collector", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    file = tmp_path / "collector.toml"
    tables = [f"[tls]\ncertificate = '{server}'\nkey = '{server}'\nclient_ca = '{authority.file}'\n"]
    for each in TOKENS:
        members = {name: value for name, value in msgspec.to_builtins(each).items() if value is not None}
        tables.append("[[tokens]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in members.items()))
    file.write_text("".join(tables))
    command = [sys.executable, "-m", "audit_middleware", "collect", "--json", "--config", str(file)]
    places = ["--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), "--guard", str(tmp_path / "guard")]
    environ = {**os.environ, "AUDIT_KEYS": "k1:" + b64url(KEY).decode()}
    with subprocess.Popen([*command, *places], stdout=subprocess.PIPE, env=environ, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            assert process.wait(20) == 0


def post(url, authority, lines, certificate=None, token=None):
    transport = HTTPTransport((url,), token=token, tls=TLSFiles(authority.file, certificate))
    try:
        return transport.post(b"".join(line + b"\n" for line in lines), {})
    finally:
        transport.close()


def test_a_certificate_delivers_for_its_services_and_for_no_others(url, authority):
    assert url.startswith("https://")
    mine = authority.issue("o", x509.DNSName("orders.internal"))
    assert post(url, authority, App().lines, mine).status == 200
    other = post(url, authority, App(service="billing").lines, mine)
    assert b'"reason":"service"' in other.body


def test_a_common_name_counts_and_another_name_does_not(url, authority):
    assert post(url, authority, App().lines, authority.issue("orders.internal")).status == 200
    assert post(url, authority, App().lines, authority.issue("other")).status == 401
    assert post(url, authority, App().lines).status == 401


def test_a_token_bound_to_a_certificate_is_worth_nothing_without_it(url, authority):
    token = "both-0123456789abcdef"
    assert post(url, authority, App().lines, token=token).status == 401
    assert post(url, authority, App().lines, authority.issue("orders.internal"), token).status == 401
    both = authority.issue("both", x509.UniformResourceIdentifier("spiffe://shop/both"))
    assert post(url, authority, App().lines, both, token).status == 200
    assert post(url, authority, App().lines, both).status == 401


def test_certificates_of_others_and_old_ones_do_not_connect(url, authority, tmp_path):
    (tmp_path / "evil").mkdir()
    stranger = Authority(tmp_path / "evil", "ca")
    for certificate in (
        stranger.issue("orders.internal"),
        authority.issue("old", x509.DNSName("orders.internal"), days=-1),
    ):
        with pytest.raises(DeliveryError):
            post(url, authority, App().lines, certificate)
    with pytest.raises(DeliveryError, match="CERTIFICATE_VERIFY_FAILED"):
        post(url, stranger, App().lines)


def test_a_certificate_that_is_not_accepted_is_on_record_with_the_reason(url, authority, tmp_path):
    (tmp_path / "evil").mkdir()
    stranger = Authority(tmp_path / "evil", "other ca").issue("orders.internal")
    for _ in range(3):
        with pytest.raises(DeliveryError):
            post(url, authority, App().lines, stranger)
    mine, token = TLSFiles(authority.file).context(), {"authorization": "Bearer plain-0123456789abcdef"}
    with httpx.Client(base_url=url, verify=mine, headers=token) as client:

        def refused():
            records = client.get("/v1/records?type=access").json()["records"]
            return [rec for each in records if (rec := each["record"]["rec"])["kind"] == "denied"]

        wait_until(lambda: sum(record["count"] for record in refused()) == 3, 15)  # counted every few seconds
        what = {(record["by"], record["source"], record["what"]) for record in refused()}
    assert what == {("unknown", "unknown", "TLS handshake: unable to get local issuer certificate")}


def test_plain_http_gets_nothing(url):
    with pytest.raises(httpx.HTTPError):
        httpx.get(url.replace("https", "http") + "/healthz")


def test_the_command_line_shows_its_certificate(url, authority):
    def search(**environ):
        command = [sys.executable, "-m", "audit_middleware", "search", "--url", url, "--json"]
        given = {**os.environ, "AUDIT_TOKEN": "plain-0123456789abcdef", **environ}
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)

    ca = {"AUDIT_CA_FILE": str(authority.file)}
    assert search(**ca).returncode == 0
    assert "CERTIFICATE_VERIFY_FAILED" in search().stderr + search().stdout
    ran = search(**ca, AUDIT_CLIENT_CERT=str(authority.file))  # it has no key in it
    assert (ran.returncode, "AUDIT_CLIENT_CERT" in ran.stderr + ran.stdout) == (2, True)


def test_what_is_contradictory_is_refused_at_the_start(tmp_path, authority):
    with pytest.raises(ConfigurationError, match=r"set tls\.client_ca"):
        settings_for(tmp_path, tokens=TOKENS)
    with pytest.raises(ConfigurationError, match=r"tls\.key: .* is not there"):
        settings_for(tmp_path, tls=TLSSettings(certificate=str(authority.file), key="/nowhere"))
    with pytest.raises(ConfigurationError, match=r"tls\.certificate and tls\.key: .* are no pair of PEM files"):
        settings_for(tmp_path, tls=TLSSettings(certificate=str(authority.file), key=str(authority.file)))
    twice = [TOKENS[0], TokenSetting(name="again", services=["*"], certificate="orders.internal")]
    with pytest.raises(ConfigurationError, match="'again' is there twice"):
        Tokens(twice)
    file = tmp_path / "c.toml"
    file.write_text('[tls]\ncertificate = "x"\n')
    with pytest.raises(ConfigurationError, match="tls"):
        read_settings(file, {"HOME": str(tmp_path)})
    for settings in ({"client_cert": "/nowhere"}, {"client_key": str(authority.file)}):
        with pytest.raises(ConfigurationError, match=r"audit.E014"):
            check(load({}, **settings))


def test_a_certificate_alone_never_makes_a_caller_of_a_token():
    tokens = Tokens(TOKENS)
    with pytest.raises(Problem):
        tokens.authenticate(None, frozenset({"spiffe://shop/both"}))
    assert tokens.authenticate(None, frozenset({"orders.internal"})).name == "orders"
