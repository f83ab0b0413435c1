"""People and permission groups, in our look, with a guard against raising oneself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString, mark_safe

from controlplane.console.base import (
    AdminPasswordChangeForm,
    OpsModelAdmin,
    UserChangeForm,
    UserCreationForm,
    badge,
    display,
    since,
)

if TYPE_CHECKING:
    _UserAdmin = UserAdmin[User]
else:
    _UserAdmin = UserAdmin

#: Who may give these away may give himself everything.
_SUPERUSER_ONLY = ("is_superuser", "user_permissions")

admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class PersonAdmin(_UserAdmin, OpsModelAdmin[User]):
    """Accounts that sign in here. Nobody changes somebody who has more rights than himself."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "full_name", "in_groups", "state", "last_seen")
    list_filter = ("is_active", "is_superuser", "groups")
    ordering = ("username",)
    empty_state = "Give each person an own account, so that the history says who changed what."

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    @display(description="Name", ordering="first_name", empty_value="–")
    def full_name(self, user: User) -> str | None:
        return user.get_full_name() or None

    @display(description="Groups")
    def in_groups(self, user: User) -> SafeString | str:
        names = [badge(group.name, "info", "group") for group in user.groups.all()]
        if user.is_superuser:
            names.insert(0, badge("Superuser", "warn", "shield_person"))
        return mark_safe(" ".join(names)) if names else "–"  # noqa: S308  (each part is escaped by badge)

    @display(description="Sign-in", ordering="is_active")
    def state(self, user: User) -> SafeString:
        if not user.is_active:
            return badge("Locked", "bad", "block")
        return badge("Staff", "ok") if user.is_staff else badge("No admin", "muted")

    @display(description="Last sign-in", ordering="last_login")
    def last_seen(self, user: User) -> SafeString:
        return since(user.last_login)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        fields = tuple(super().get_readonly_fields(request, obj))
        return fields if _is_superuser(request) else (*fields, *_SUPERUSER_ONLY)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Somebody may put others only into groups whose rights he holds himself."""
        if db_field.name == "groups" and not _is_superuser(request):
            kwargs["queryset"] = Group.objects.filter(pk__in=_groups_within(request))
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_touch(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """The list's delete asks once for all rows: whoever has more rights is refused by name."""
        found, counts, missing, protected = super().get_deleted_objects(objs, request)
        kept = [f"{user} (has more rights than you)" for user in objs if not _may_touch(request, user)]
        return found, counts, missing, [*protected, *kept]


@admin.register(Group)
class PermissionGroupAdmin(GroupAdmin, OpsModelAdmin[Group]):
    """Bundles of permissions. A group is also a rate-limit role where a profile names it."""

    list_display = ("name", "people")
    empty_state = "Run `manage.py bootstrap`: it makes the groups Viewer, Operator and Administrator."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        return super().get_queryset(request).annotate(people_count=Count("user"))

    @display(description="People", ordering="people_count")
    def people(self, group: Any) -> int:
        return int(group.people_count)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and _is_superuser(request)


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


def _may_touch(request: HttpRequest, user: object) -> bool:
    """Whoever sets a password can sign in as that person: so only persons with no more rights than oneself."""
    if _is_superuser(request) or not isinstance(user, User):
        return True
    return not user.is_superuser and user.get_all_permissions() <= request.user.get_all_permissions()


def _groups_within(request: HttpRequest) -> list[int]:
    own = request.user.get_all_permissions()
    groups = Group.objects.prefetch_related("permissions__content_type")
    return [
        group.pk
        for group in groups
        if {f"{p.content_type.app_label}.{p.codename}" for p in group.permissions.all()} <= own
    ]
