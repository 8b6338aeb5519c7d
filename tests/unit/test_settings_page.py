"""docs/settings.md: its tables are what stands beside the fields in the code.

After a change that is meant, `pytest tests/unit --update-golden` writes them again.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import pytest
from pydantic.fields import FieldInfo

from tasks.apps.settings import App, AppsSettings
from tasks.backup.settings import BackupSettings, FurtherBucket
from tasks.backup.thresholds import HealthSettings
from tasks.compose.settings import DockerSettings
from tasks.core.settings import Model, Settings, StackSettings
from tasks.exporter.settings import ExporterSettings
from tasks.firewall.settings import FirewallSettings
from tasks.page.settings import PageSettings
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres.settings import Database, PostgresSettings, Role
from tasks.prometheus.settings import AlertmanagerSettings, PrometheusSettings
from tasks.redis.acl import RedisUser
from tasks.redis.sentinels import SentinelSettings
from tasks.redis.settings import RedisSettings
from tasks.tls.settings import TlsSettings
from tasks.upgrade.settings import UpgradeSettings
from tests.e2e.project import ROOT
from tests.unit import golden

PAGE = ROOT / "docs/settings.md"
MODELS: tuple[type[Model], ...] = (
    StackSettings,
    PostgresSettings,
    Role,
    Database,
    PgbouncerSettings,
    RedisSettings,
    RedisUser,
    SentinelSettings,
    BackupSettings,
    FurtherBucket,
    HealthSettings,
    DockerSettings,
    AppsSettings,
    App,
    FirewallSettings,
    TlsSettings,
    UpgradeSettings,
    ExporterSettings,
    PageSettings,
    PrometheusSettings,
    AlertmanagerSettings,
)
# A comment names the class whose table follows it.
_PLACE = re.compile(r"(<!-- (\w+) -->\n)\n?(?:\|.*\n)*")
_PARTS = re.compile(r"(?P<meaning>.+?)( Default: (?P<default>.+?)\.)?( Change: (?P<change>.+)\.)?")


def _explained(model: type[Model]) -> Iterator[tuple[str, str]]:
    """Each field of a class and the docstring that follows it."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(said))):
                yield name, " ".join(said.split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default
    if value is None or (not value and not isinstance(value, bool | int)):
        return "none"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _row(model: type[Model], name: str, text: str) -> list[str]:
    parts = _PARTS.fullmatch(text)
    assert parts
    key = model.key_of(name) if issubclass(model, Settings) else name
    default = parts["default"] or _default(model.model_fields[name])
    row = [f"`{key}`", default, parts["meaning"].removesuffix(".")]
    return [*row, parts["change"] or "-"] if issubclass(model, Settings) else row


def _table(model: type[Model]) -> str:
    head = ["key", "default", "meaning"] + ["a change"] * issubclass(model, Settings)
    rows = [head, ["---"] * len(head), *(_row(model, *each) for each in _explained(model))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_explained_beside_its_type(model: type[Model]) -> None:
    """What a field means is said once, where it is defined."""
    assert [name for name, _ in _explained(model)] == list(model.model_fields)


def test_page_says_what_the_code_says(update_golden: bool) -> None:
    """Every table, and each class has one."""
    text = PAGE.read_text()
    tables = {model.__name__: _table(model) for model in MODELS}
    assert sorted(match[1] for match in _PLACE.findall(text)) == sorted(tables)
    now = _PLACE.sub(lambda match: f"{match[1]}\n{tables[match[2]]}", text)
    if update_golden:
        PAGE.write_text(now)
    else:
        golden.same(PAGE.name, text, now)
