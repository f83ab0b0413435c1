"""Who may do what with backups: one method for each permission, as the actions ask for them by name."""

from __future__ import annotations

from django.http import HttpRequest


def may(request: HttpRequest, verb: str) -> bool:
    """Whether the person holds ``backups.<verb>``."""
    return bool(request.user.has_perm(f"backups.{verb}"))


class BackupVerbs:
    """The permissions of ``BackupRecord.Meta`` as the methods that ``action(permission=…)`` looks for."""

    def has_run_backup_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "run_backup")

    def has_cancel_backup_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "cancel_backup")

    def has_verify_backup_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "verify_backup")

    def has_drill_backup_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "drill_backup")

    def has_restore_backup_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "restore_backup")

    def has_pin_backup_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "pin_backup")

    def has_delete_backup_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "delete_backup")

    def has_download_recovery_kit_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "download_recovery_kit")

    def has_unfreeze_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return may(request, "unfreeze_backupplan")
