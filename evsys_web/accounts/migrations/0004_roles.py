"""Owners become admins, members editors; viewers are new."""

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

NEW = {"owner": "admin", "member": "editor"}
OLD = {"admin": "owner", "editor": "member", "viewer": "member"}


def rename(names: dict[str, str], apps: Apps) -> None:
    memberships = apps.get_model("accounts", "Membership").objects
    for before, after in names.items():
        memberships.filter(role=before).update(role=after)


def forwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    rename(NEW, apps)


def backwards(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    rename(OLD, apps)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0003_credentials")]

    operations = [
        migrations.AlterField(
            model_name="membership",
            name="role",
            field=models.CharField(
                choices=[("viewer", "Viewer"), ("editor", "Editor"), ("admin", "Admin")], default="viewer", max_length=10
            ),
        ),
        migrations.RunPython(forwards, backwards),
    ]
