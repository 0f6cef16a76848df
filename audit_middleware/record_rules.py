"""An organisation's own rules for records; one file for process, tests and collector.

```toml
actions = ["orders.*", "auth.*"]          # names that may be used; left out: any
naming = "[a-z_]+([.][a-z_]+)+"           # what every name looks like
[[rules]]
match = "orders.*"                        # of the actions that this is for
require = ["tenant", "reason", "details.ticket"]
```

A record that breaks a rule is kept all the same: what is wrong is named among its defects as ``rules.<what>``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from audit_middleware.errors import ConfigurationError
from audit_middleware.record import UNKNOWN, AuditRecord

PREFIX: Final = "rules."
"""How the defects begin that name a broken rule."""

_MEMBERS: Final = ("principal", "source", "resource", "trace", "http", "task", "call", "cause")
_SHORT: Final = {name: f"principal.{name}" for name in ("tenant", "name", "privileged", "on_behalf_of")}
_OWN: Final = "audit."  # actions that this library names itself, such as audit.exempt
_PATH: Final = re.compile(r"[a-z_]+(\.[A-Za-z0-9_-]+)*")
_KNOWN_ACTIONS: Final = 4096

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What records of the actions that ``match`` (``*`` is anything) have to say."""

    match: Text
    require: Annotated[list[Text], msgspec.Meta(min_length=1)]


class _Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    actions: list[Text] | None = None
    naming: Text | None = None
    rules: list[Rule] = []


class RecordRules:
    """The rules of one file, ready to judge. Safe from any thread."""

    def __init__(self, declared: _Declared, digest: str = "") -> None:
        self.digest = digest
        """SHA-256 (hex) of the file."""

        self._actions = declared.actions
        self._naming = re.compile(declared.naming) if declared.naming is not None else None
        self._rules = [(rule.match, [(name, _reader(name)) for name in rule.require]) for rule in declared.rules]
        self._of = lru_cache(maxsize=_KNOWN_ACTIONS)(self._find)

    def broken_by(self, record: AuditRecord) -> list[str]:
        """Return what a record lacks, as ``rules.<name>``; ``rules.action`` for a name that may not be used."""
        is_named, required = self._of(record.action)
        broken = [] if is_named or record.call is not None or _is_unrouted(record) else [f"{PREFIX}action"]
        return broken + [f"{PREFIX}{name}" for name, read in required if not read(record)]

    def noted(self, record: AuditRecord) -> AuditRecord:
        """Return the record with what it lacks among its defects."""
        broken = self.broken_by(record)
        return msgspec.structs.replace(record, defects=[*(record.defects or ()), *broken]) if broken else record

    def _find(self, action: str) -> tuple[bool, list[tuple[str, Callable[[AuditRecord], bool]]]]:
        is_own = action.startswith(_OWN)
        is_named = is_own or self._naming is None or self._naming.fullmatch(action) is not None
        if self._actions is not None and not is_own:
            is_named &= any(fnmatchcase(action, pattern) for pattern in self._actions)
        found = [each for match, required in self._rules if fnmatchcase(action, match) for each in required]
        return is_named, list(dict(found).items())


@lru_cache(maxsize=16)
def read_record_rules(path: Path) -> RecordRules:
    """Read a file of rules; raise `ConfigurationError` that names file, key and what is expected."""
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
        declared = msgspec.convert(given, _Declared)
        for rule in declared.rules:
            for name in rule.require:
                _require_place(name)
        return RecordRules(declared, sha256(text.encode()).hexdigest())
    except OSError as error:
        raise ConfigurationError(f"rules file {path}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"rules file {path}: {error}; see docs/rules.md") from error
    except re.error as error:
        raise ConfigurationError(f"rules file {path}: naming is no regular expression: {error}") from error
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"rules file {path}: {error}") from error


def _require_place(name: str) -> None:
    path = _SHORT.get(name, name)
    head, _, rest = path.partition(".")
    fields = AuditRecord.__struct_fields__
    is_place = _PATH.fullmatch(path) and head in fields and (not rest or head in {*_MEMBERS, "details"})
    if is_place and rest and head in _MEMBERS:
        is_place = rest in _fields_of(head)
    if not is_place:
        hint = "a member of a record such as reason, tenant, trace.trace_id or details.ticket"
        raise ConfigurationError(f"require: {name!r} is not {hint}; see docs/rules.md")


def _fields_of(member: str) -> tuple[str, ...]:
    described = msgspec.inspect.type_info(AuditRecord)
    assert isinstance(described, msgspec.inspect.StructType)
    (type_,) = (each.type for each in described.fields if each.name == member)
    options = type_.types if isinstance(type_, msgspec.inspect.UnionType) else (type_,)
    structs = [each for each in options if isinstance(each, msgspec.inspect.StructType)]
    return tuple(field.name for each in structs for field in each.fields)


def _reader(name: str) -> Callable[[AuditRecord], bool]:
    """Return what says whether a record has something at a place: not nothing, not empty and not unknown."""
    head, *rest = _SHORT.get(name, name).split(".")

    def is_there(record: AuditRecord) -> bool:
        value: Any = getattr(record, head)
        for part in rest:
            value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
        return value is not None and value not in ("", UNKNOWN, [], {})

    return is_there


def _is_unrouted(record: AuditRecord) -> bool:
    """Whether nothing of the application was reached that could have named it."""
    return record.http is not None and record.http.route == "none"
