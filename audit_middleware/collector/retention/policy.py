"""How long which services' records are kept. Pure: settings in, dates out.

A service belongs to one class, a class has one log for each half-year, and a log goes as a whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

import msgspec

from audit_middleware.errors import ConfigurationError
from audit_middleware.record import COLLECTOR_CLASS

DEFAULT_CLASS: Final = "default"
OWN_CLASS: Final = COLLECTOR_CLASS

CLASS: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_KEEP: Final = re.compile(r"([1-9][0-9]{0,4})([dy])")
_LONGEST_YEAR: Final = 366
_SECOND_HALF: Final = 7
FOREVER: Final = "forever"

Profile = Literal["pci", "hipaa"]
LEAST_YEARS: Final[dict[Profile, int]] = {"pci": 1, "hipaa": 6}
"""PCI DSS 4.0, 10.5.1: twelve months, three of them at hand; 45 CFR 164.316(b)(2)(i): six years."""


class RetentionSetting(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"class_": "class"}
):
    """One ``[[retention]]`` table: ``keep`` is ``400d``, ``7y`` or ``forever``, ``profile`` a law to obey."""

    keep: str
    services: list[str] = []
    class_: str = DEFAULT_CLASS
    profile: Profile | None = None


class Keep(NamedTuple):
    """A time to keep: so many days or calendar years; None is for ever."""

    number: int | None
    unit: Literal["d", "y"] = "y"

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Read ``400d``, ``7y`` or ``forever``; raise `ConfigurationError`."""
        if text == FOREVER:
            return cls(None)
        match = _KEEP.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"keep {text!r}: expected a number of days or years such as 400d or 7y, or forever"
            )
        return cls(int(match[1]), "d" if match[2] == "d" else "y")

    def covers(self, years: int) -> bool:
        """Say whether it is no shorter than so many calendar years, whichever they are."""
        if self.number is None:
            return True
        return self.number >= (years if self.unit == "y" else years * _LONGEST_YEAR)

    @property
    def days(self) -> float:
        """How long that is, for comparing; for ever is longer than anything."""
        if self.number is None:
            return math.inf
        return self.number * (365.25 if self.unit == "y" else 1)

    def after(self, moment: datetime) -> datetime | None:
        """Return when it has passed since ``moment``; None for never."""
        if self.number is None:
            return None
        try:
            if self.unit == "d":
                return moment + timedelta(days=self.number)
            return moment.replace(year=moment.year + self.number)
        except (OverflowError, ValueError):
            return None  # beyond the calendar

    def __str__(self) -> str:
        return FOREVER if self.number is None else f"{self.number}{self.unit}"


def period_of(seconds: float) -> str:
    """Return the half-year of a time since the epoch, in UTC: ``2026h2``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.year:04d}h{1 if moment.month < _SECOND_HALF else 2}"


def end_of(period: str) -> datetime:
    """Return the first moment after a half-year: nothing is received into it later."""
    year = int(period[:4])
    return datetime(year, 7, 1, tzinfo=UTC) if period.endswith("1") else datetime(year + 1, 1, 1, tzinfo=UTC)


def following(period: str) -> str:
    """Return the half-year after one."""
    return period_of(end_of(period).timestamp())


class Policy:
    """Which class a service belongs to, and how long each class is kept; without settings everything for ever.

    Raises `ConfigurationError` for settings that contradict each other, or keep less than their profile asks for.
    """

    def __init__(self, settings: Sequence[RetentionSetting] = ()) -> None:
        self._keeps: dict[str, Keep] = {}
        self._classes: dict[str, str] = {}
        for number, setting in enumerate(settings):
            where = f"retention[{number}] (class {setting.class_!r})"
            if not CLASS.fullmatch(setting.class_) or setting.class_ == OWN_CLASS:
                raise ConfigurationError(
                    f"{where}: a class is named with a-z, 0-9 and -, at most 32 characters; "
                    f"{OWN_CLASS!r} is the collector's own"
                )
            if setting.class_ in self._keeps:
                raise ConfigurationError(f"{where}: is there twice; name all services of a class in one table")
            self._keeps[setting.class_] = _keep(setting, where)
            self._assign(setting.services, setting.class_, where)

    @property
    def classes(self) -> list[str]:
        """Every class that records can go to, the collector's own included."""
        return sorted({DEFAULT_CLASS, self.own_class, *self._keeps})

    @property
    def own_class(self) -> str:
        """The class of the collector's own records that speak of no class: of its life."""
        expires = any(keep.number is not None for keep in self._keeps.values())
        return OWN_CLASS if expires else DEFAULT_CLASS

    def class_of(self, service: str) -> str:
        """Return the class of a service."""
        return self._classes.get(service, DEFAULT_CLASS)

    def services_of(self, class_: str) -> list[str]:
        """Return the services that are named for a class; the default one takes all others too."""
        return sorted(service for service, known in self._classes.items() if known == class_)

    def longest(self, classes: Iterable[str]) -> str:
        """Return the class that is kept longest."""
        return max(classes, key=lambda class_: (self.keep(class_).days, class_))

    def keep(self, class_: str) -> Keep:
        """Return how long a class is kept; one that no setting names is kept for ever."""
        return self._keeps.get(class_, Keep(None))

    def expires(self, class_: str, period: str) -> datetime | None:
        """Return when the log of a class and half-year has expired, None for never: when its last moment has."""
        return self.keep(class_).after(end_of(period))

    def _assign(self, services: Iterable[str], class_: str, where: str) -> None:
        for service in services:
            if not service:
                raise ConfigurationError(f"{where}: a service has no name")
            if service in self._classes:
                raise ConfigurationError(
                    f"{where}: {service!r} belongs to class {self._classes[service]!r} already; a service has one class"
                )
            self._classes[service] = class_


def _keep(setting: RetentionSetting, where: str) -> Keep:
    try:
        keep = Keep.parse(setting.keep)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    years = LEAST_YEARS[setting.profile] if setting.profile is not None else 0
    if not keep.covers(years):
        raise ConfigurationError(
            f"{where}: keep {keep} is less than the {years}y that profile {setting.profile!r} asks for: "
            f'say keep = "{years}y" or more, in days {years * _LONGEST_YEAR}d'
        )
    return keep
