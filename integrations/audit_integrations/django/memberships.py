"""Who is in which group, and who has which permissions, as Django changes that; from either side.

What is cleared, removed or deleted is read before: afterwards nobody knows it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, pre_delete

from audit_integrations.django.accounts import user_model
from audit_integrations.django.telling import at_hand, chunks, contained, names_of, same_table
from audit_middleware import events

_BEFORE: Final = "_audit_links"
"""What the changes of an instance that run now take away, by relation, the innermost last."""
_GROUPS: Final = "groups"

Links = Mapping[Any, Collection[Any]]
"""Primary keys of groups or permissions, by the primary key of who has them."""


class Relation(NamedTuple):
    """A relation of users or groups to groups or permissions, and the table between."""

    owners: type[Model]
    targets: type[Model]
    through: type[Model]
    owner: str
    target: str
    is_of_groups: bool
    kind: str

    def links(self, using: str, **conditions: object) -> dict[Any, list[Any]]:
        """Return what the table holds: one query."""
        found: defaultdict[Any, list[Any]] = defaultdict(list)
        rows = self.through._base_manager.using(using).filter(**conditions)  # noqa: SLF001 - documented
        for owner, target in rows.values_list(self.owner, self.target):
            found[owner].append(target)
        return dict(found)

    def now(self, using: str, owners: Sequence[Any]) -> dict[Any, list[Any]]:
        """Return what ``owners`` have at this moment."""
        found: dict[Any, list[Any]] = {}
        for some in chunks(owners):
            found.update(self.links(using, **{f"{self.owner}__in": some}))
        return found


class Taken(NamedTuple):
    """What a change takes away, and what is called how that is gone afterwards."""

    links: Links
    names: Mapping[Any, str]


def connect() -> None:
    """Listen to whatever relations there are; a second call changes nothing."""
    for relation in relations():
        uid = f"audit {relation.through._meta.label}"  # noqa: SLF001 - documented
        m2m_changed.connect(_receiver(relation, changed), sender=relation.through, dispatch_uid=uid, weak=False)
        for model in same_table(relation.targets):
            pre_delete.connect(_receiver(relation, before_delete), sender=model, dispatch_uid=uid, weak=False)
            post_delete.connect(_receiver(relation, after_delete), sender=model, dispatch_uid=uid, weak=False)


def relations() -> Iterator[Relation]:
    """Yield the groups and permissions of users, if they have any, and the permissions of Django's groups."""
    users = user_model()
    if users is not None:
        for name in (_GROUPS, "user_permissions"):
            yield from _relation(users, name, "user")
    if apps.is_installed("django.contrib.auth"):
        yield from _relation(apps.get_model("auth", "Group"), "permissions", "group")


def _relation(owners: type[Model], name: str, kind: str) -> Iterator[Relation]:
    try:
        field: Any = owners._meta.get_field(name)  # noqa: SLF001 - documented
    except FieldDoesNotExist:
        return
    if field.many_to_many:
        through = field.remote_field.through
        owner = through._meta.get_field(field.m2m_field_name()).attname  # noqa: SLF001 - documented
        target = through._meta.get_field(field.m2m_reverse_field_name()).attname  # noqa: SLF001 - documented
        yield Relation(owners, field.remote_field.model, through, owner, target, name == _GROUPS, kind)


def _receiver(relation: Relation, function: Callable[..., None]) -> Callable[..., None]:
    def receiver(sender: object, **named: Any) -> None:  # noqa: ANN401, ARG001 - Django's signature
        function(relation, **named)

    receiver.__name__ = function.__name__
    return contained(receiver)


def changed(
    relation: Relation,
    *,
    instance: Any,  # noqa: ANN401 - either side
    action: str,
    reverse: bool,
    pk_set: Collection[Any] | None,
    using: str,
    **_: object,
) -> None:
    """Record what was added, removed or cleared."""
    if action in {"pre_remove", "pre_clear"}:
        mine, theirs = (relation.target, relation.owner) if reverse else (relation.owner, relation.target)
        narrowed = {f"{theirs}__in": pk_set} if pk_set is not None else {}
        taken = _remembered(relation, instance)
        taken.append(Taken({}, {}))
        taken[-1] = Taken(relation.links(using, **{mine: instance.pk}, **narrowed), {})
    elif action in {"post_remove", "post_clear"}:
        _say(relation, using, {}, *_taken(relation, instance))
    elif action == "post_add" and pk_set:
        added = {key: [instance.pk] for key in pk_set} if reverse else {instance.pk: list(pk_set)}
        _say(relation, using, added, {})


def before_delete(relation: Relation, *, instance: Any, using: str, **_: object) -> None:  # noqa: ANN401 - a group or permission
    """Remember who has what is about to be deleted, and what it is called."""
    taken = _remembered(relation, instance)
    taken.append(Taken({}, {}))
    links = relation.links(using, **{relation.target: instance.pk})
    taken[-1] = Taken(links, names_of(relation.targets, [instance.pk], using) if links else {})


def after_delete(relation: Relation, *, instance: Any, using: str, **_: object) -> None:  # noqa: ANN401 - a group or permission
    """Record that nobody has it any more."""
    _say(relation, using, {}, *_taken(relation, instance))


def _remembered(relation: Relation, instance: Any) -> list[Taken]:  # noqa: ANN401 - either side
    by_relation: dict[str, list[Taken]] = instance.__dict__.setdefault(_BEFORE, {})
    return by_relation.setdefault(relation.through._meta.label, [])  # noqa: SLF001 - documented


def _taken(relation: Relation, instance: Any) -> Taken:  # noqa: ANN401 - either side
    """Return what is remembered, and leave nothing of it on an instance that may be pickled."""
    taken = _remembered(relation, instance)
    last = taken.pop()
    if not taken:
        del instance.__dict__[_BEFORE][relation.through._meta.label]  # noqa: SLF001 - documented
        if not instance.__dict__[_BEFORE]:
            del instance.__dict__[_BEFORE]
    return last


def _say(relation: Relation, using: str, added: Links, removed: Links, known: Mapping[Any, str] | None = None) -> None:
    """Record one event for each user or group: whose roles are others, or who has other permissions."""
    owners = [key for key in {**added, **removed} if added.get(key) or removed.get(key)]
    now = relation.now(using, owners) if relation.is_of_groups else {}
    targets = {target for links in (added, removed, now) for some in links.values() for target in some}
    names = {**names_of(relation.targets, targets, using), **(known or {})}
    with at_hand():
        for key, owner in names_of(relation.owners, owners, using).items():
            gained, lost, held = ([names[target] for target in links.get(key, ())] for links in (added, removed, now))
            if relation.is_of_groups:
                before = [*(name for name in held if name not in gained), *lost]
                events.role_changed(owner, before=_roles(before), after=_roles(held))
            else:
                events.permission_changed((relation.kind, owner), granted=sorted(gained), revoked=sorted(lost))


def _roles(groups: Collection[str]) -> list[str]:
    return [f"group:{name}" for name in sorted(groups)]
