"""What a run reads of the configuration that the backup program has."""

from __future__ import annotations

import json

import pytest

from tasks.backup.program import configured

HAS = {"first": 'a "quoted" \\ one', "encryption_passphrase": 'with "quotes", \\', "last": "x"}


@pytest.mark.parametrize("indent", [None, 2])
def test_it_is_read_however_hands_have_laid_it_out(indent: int | None) -> None:
    written = json.dumps(HAS, indent=indent).encode()
    assert configured(written, "encryption_passphrase") == HAS["encryption_passphrase"]
    assert configured(written, "encryption_passphrase_previous") is None
