"""What a company's services send in a season: many people, few of them busy, processes that come and go."""

import itertools
import multiprocessing
import random
from hashlib import sha256

from audit_middleware.record import AuditRecord, Counters, Http, Opened, Principal, Resource, Source, Trace
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.keys import parse_keys
from audit_middleware.sealing.seal import Sealer
from audit_middleware.sealing.text import timestamp
from benchmarks.lines import KEYS

PEOPLE, SERVICES, INSTANCES, ACTIONS, LIVES, DAYS = 5000, 20, 4, 10, 25, 90
"""Actions are of each service, lives of each of its instances: 2,000 streams and 200 actions in all."""

RESOURCES = 200_000
BATCH, SENDERS = 1000, 10
UNCLOSED = 10  # every tenth process is killed
NOBODY = 1 << 30
_AHEAD = 8  # batches that wait between the process that makes them and the one that takes them
_PEOPLE = range(PEOPLE)
_ZIPF = list(itertools.accumulate(1 / (rank + 1) for rank in _PEOPLE))
_VERBS = ("GET", "POST", "PUT", "DELETE")


def batches(records, until):
    """Yield batches of sealed lines, about ``records`` in all, of the 90 days before ``until`` (ns), in their order."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(_AHEAD)
    maker = context.Process(target=_make, args=(queue, records, until), daemon=True)
    maker.start()
    yield from iter(queue.get, None)
    maker.join()


def _make(queue, records, until):
    for batch in make_batches(records, until):
        queue.put(batch)
    queue.put(None)


def make_batches(records, until):
    dice, keyring = random.Random(records), parse_keys(KEYS)
    instances = [Instance(keyring, number, records) for number in range(SERVICES * INSTANCES)]
    span = DAYS * 86_400 * 10**9
    turns = itertools.cycle(instances)
    for first in range(0, records, BATCH):
        begin = until - span + span * first // records
        step = span // records * SENDERS
        lines = []
        for sender in range(SENDERS):
            lines += next(turns).lines(BATCH // SENDERS, begin + sender * step // SENDERS, step, dice)
        yield lines


class Instance:
    """One instance of a service, which is started again and again."""

    def __init__(self, keyring, number, records):
        self.keyring = keyring
        self.service = f"service-{number // INSTANCES:02}"
        self.name = f"{self.service}-{number % INSTANCES}"
        self.per_life = max(2, records // (SERVICES * INSTANCES * LIVES))
        self.lives = 0
        self.sealer = None

    def lines(self, count, begin, step, dice):
        people = dice.choices(_PEOPLE, cum_weights=_ZIPF, k=count)
        return [self.line(begin + number * step, who, dice) for number, who in enumerate(people)]

    def line(self, nanoseconds, who, dice):
        ts = timestamp(nanoseconds)
        sealer = self.sealer
        if sealer is None:
            sealer = self.sealer = Sealer(self.keyring, sha256(f"{self.name}.{self.lives}".encode()).digest()[:16])
            line = sealer.seal(b"open", ts, self.opened(ts))
        elif sealer.seq == self.per_life - 1:
            self.sealer = None
            self.lives += 1
            killed = self.lives % UNCLOSED == 0
            line = sealer.seal(
                *self.closing(ts, sealer) if not killed else (b"request", ts, self.record(who, sealer, dice))
            )
        else:
            line = sealer.seal(b"request", ts, self.record(who, sealer, dice))
        sealer.commit(line)
        return line

    def opened(self, ts):
        return encode_rec(
            Opened(self.service, "1", self.name, "bench", "host", "boot", 1, ts.decode(), "0", "p", "journal")
        )

    def closing(self, ts, sealer):
        return b"close", ts, encode_rec(Counters(self.service, 1, sealer.seq, sealer.seq, 0, 0))

    def record(self, who, sealer, dice):
        kind, number = dice.randrange(ACTIONS), dice.randrange(RESOURCES)
        route, address = f"/{self.service}/{kind}/{{id}}", f"203.0.{who % 113}.{who % 250}"
        verb = _VERBS[kind % len(_VERBS)]
        return encode_rec(
            AuditRecord(
                service=self.service,
                principal=Principal(person(who), "user", "session", tenant="acme"),
                source=Source(address, "peer", address, 40000 + number % 9999, "Mozilla/5.0 (X11)" * 3),
                action=f"{verb} {route}",
                outcome="success" if number % 7 else "denied",
                resource=Resource(f"kind-{kind}", str(number)),
                trace=Trace(f"{sealer.stream}.{sealer.seq:x}", None, f"{dice.getrandbits(128):032x}", f"{number:016x}"),
                http=Http(verb, route, f"/{self.service}/{kind}/{number}", 200, 1800, 0, 27, "complete"),
                details={"amount": number % 1000, "currency": "EUR"},
            )
        )


def person(rank):
    return f"user{rank:04}@example.org"
