"""What the groups of a new installation may do: not only what there was when they were made."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from django.contrib import admin
from django.contrib.auth.management import _get_all_permissions  # type: ignore[attr-defined]

from tests.processes import ROOT

OURS = ["fleet", "ota", "mqtt_bridge"]
SECRET = {"webhook", "webhookdelivery"}  # an address can hold a secret
SQL = """SELECT g.name, c.app_label || '.' || p.codename FROM auth_group g
JOIN auth_group_permissions gp ON gp.group_id = g.id
JOIN auth_permission p ON p.id = gp.permission_id JOIN django_content_type c ON c.id = p.content_type_id"""


def expected() -> dict[str, set[str]]:
    admin.autodiscover()
    models = [model for model in admin.site._registry if model._meta.app_label in OURS]
    ours = {
        (model._meta.app_label, model._meta.model_name, codename)
        for model in models
        for codename, _ in _get_all_permissions(model._meta)
    }
    views = {f"{a}.{p}" for a, m, p in ours if p.startswith("view_") and m not in SECRET}
    users = {
        f"auth.{verb}_{m}"
        for verb in ("add", "change", "delete", "view")
        for m in ("user", "group")
    }
    return {
        "Viewers": views,
        "Operators": views | {"ota.upgrade_devices", "fleet.change_device"},
        "Administrators": {f"{app}.{codename}" for app, _, codename in ours} | users,
    }


def test_the_groups_of_a_new_installation_may_what_they_should(tmp_path: Path) -> None:
    environment = os.environ | {
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "SECRET_KEY": "x",
    }
    environment["DJANGO_SETTINGS_MODULE"] = "config.settings"
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    found: dict[str, set[str]] = {}
    with sqlite3.connect(tmp_path / "db.sqlite3") as database:
        for group, permission in database.execute(SQL):
            found.setdefault(group, set()).add(permission)
    for group, permissions in expected().items():
        assert sorted(permissions - found[group]) == [], f"missing for {group}"
