"""What each alert rule fires for, as series of a healthy estate in which one thing changes."""

from __future__ import annotations

import json
from typing import NamedTuple

_HOST = 'host="db1",instance="10.0.0.1:9100",job="datatier"'
_DISK = f'{_HOST},device="/dev/sda1",fstype="ext4",mountpoint="/"'
_ALWAYS = "x1600"
_HEALTH = f'datatier_health_level{{check="postgres",{_HOST}}}'
_UNIT = f'node_systemd_unit_state{{name="redis-6379.service",state="failed",{_HOST}}}'
_BACKUP = "datatier_backup_last_success_timestamp_seconds"
_UPDATES = f'datatier_updates_due{{kind="security",{_HOST}}}'
_OLD_BINARY = f'datatier_old_binary{{unit="redis-6379.service",{_HOST}}}'
_SENT = f'alertmanager_notifications_failed_total{{integration="webhook",{_HOST}}}'

# A minute between two values, and the first one at the beginning of time.
HEALTHY = {
    f"up{{{_HOST}}}": f"1{_ALWAYS}",
    _HEALTH: f"0{_ALWAYS}",
    f"datatier_health_last_run_timestamp_seconds{{{_HOST}}}": f"0+60{_ALWAYS}",
    f'{_BACKUP}{{exported_job="full",{_HOST}}}': f"0+60{_ALWAYS}",
    f'{_BACKUP}{{exported_job="drill",{_HOST}}}': f"0+60{_ALWAYS}",
    f"node_textfile_scrape_error{{{_HOST}}}": f"0{_ALWAYS}",
    f"node_filesystem_size_bytes{{{_DISK}}}": f"100e9{_ALWAYS}",
    f"node_filesystem_free_bytes{{{_DISK}}}": f"50e9{_ALWAYS}",
    f"node_filesystem_avail_bytes{{{_DISK}}}": f"50e9{_ALWAYS}",
    f"node_filesystem_files{{{_DISK}}}": f"1000{_ALWAYS}",
    f"node_filesystem_files_free{{{_DISK}}}": f"500{_ALWAYS}",
    f"node_filesystem_readonly{{{_DISK}}}": f"0{_ALWAYS}",
    f"node_memory_MemTotal_bytes{{{_HOST}}}": f"100{_ALWAYS}",
    f"node_memory_MemAvailable_bytes{{{_HOST}}}": f"50{_ALWAYS}",
    f"node_vmstat_oom_kill{{{_HOST}}}": f"7{_ALWAYS}",
    _UNIT: f"0{_ALWAYS}",
    f"node_time_seconds{{{_HOST}}}": f"0+60{_ALWAYS}",
    f"node_timex_sync_status{{{_HOST}}}": f"1{_ALWAYS}",
    f"node_timex_maxerror_seconds{{{_HOST}}}": f"0.1{_ALWAYS}",
    _UPDATES: f"0{_ALWAYS}",
    f"datatier_updates_due_since_timestamp_seconds{{{_HOST}}}": f"0+60{_ALWAYS}",
    f"datatier_reboot_required{{{_HOST}}}": f"0{_ALWAYS}",
    _OLD_BINARY: f"0{_ALWAYS}",
    f"prometheus_config_last_reload_successful{{{_HOST}}}": f"1{_ALWAYS}",
    _SENT: f"0{_ALWAYS}",
    # A reload drops what it was about to send, which is sent again a minute later.
    f"prometheus_notifications_dropped_total{{{_HOST}}}": f"0x2 1{_ALWAYS}",
}


class Fault(NamedTuple):
    """What changes for one alert, and the minute in which it fires.

    Attributes:
        series: by their names, None for one that is not there.
        quiet: the minute in which it has not fired yet; 0 where it fires at once.
    """

    alert: str
    series: dict[str, str | None]
    fires: int
    quiet: int = 0


def _one(name: str, values: str) -> dict[str, str | None]:
    """The only series of that name in another state."""
    return {series: values for series in HEALTHY if series.partition("{")[0] == name}


FAULTS = (
    Fault("DatatierCritical", _one("datatier_health_level", "0x4 2x100"), 6, 3),
    Fault("DatatierWarning", _one("datatier_health_level", "0x4 1x100"), 20, 10),
    Fault("DatatierUnknown", _one("datatier_health_level", "0x4 3x100"), 20, 10),
    Fault(
        "DatatierHealthStale",
        _one("datatier_health_last_run_timestamp_seconds", "0x100"),
        16,
        14,
    ),
    Fault(
        "DatatierHealthMissing",
        dict.fromkeys(_one("datatier_health_last_run_timestamp_seconds", "")),
        16,
        14,
    ),
    Fault(
        "DatatierBackupOld",
        {f'{_BACKUP}{{exported_job="full",{_HOST}}}': "-691000x100"},
        10,
        1,
    ),
    Fault(
        "DatatierDrillOld",
        {f'{_BACKUP}{{exported_job="drill",{_HOST}}}': "-3023800x100"},
        10,
        1,
    ),
    Fault("DatatierHostSilent", _one("up", "1x4 0x100"), 8, 6),
    Fault("DatatierTextfileError", _one("node_textfile_scrape_error", "0x4 1x100"), 11, 8),
    Fault(
        "DatatierDiskFull",
        _one("node_filesystem_free_bytes", "4e9x100")
        | _one("node_filesystem_avail_bytes", "4e9x100"),
        6,
        4,
    ),
    Fault(
        "DatatierDiskNearlyFull",
        _one("node_filesystem_free_bytes", "14e9x100")
        | _one("node_filesystem_avail_bytes", "14e9x100"),
        16,
        14,
    ),
    Fault(
        "DatatierDiskFills",
        _one("node_filesystem_free_bytes", "39e9-50e6x300")
        | _one("node_filesystem_avail_bytes", "39e9-50e6x300"),
        200,
        100,
    ),
    Fault("DatatierInodesFull", _one("node_filesystem_files_free", "40x100"), 6, 4),
    Fault("DatatierMemoryLow", _one("node_memory_MemAvailable_bytes", "4x100"), 11, 9),
    Fault("DatatierOutOfMemory", _one("node_vmstat_oom_kill", "7x4 8x100"), 7, 3),
    Fault("DatatierUnitFailed", _one("node_systemd_unit_state", "0x4 1x100"), 8, 6),
    Fault("DatatierClockOff", _one("node_time_seconds", "6+60x100"), 6, 4),
    Fault(
        "DatatierClockAlone",
        _one("node_timex_sync_status", "0x100") | _one("node_timex_maxerror_seconds", "16x100"),
        61,
        59,
    ),
    Fault(
        "DatatierUpdatesDue",
        _one("datatier_updates_due", "3x100")
        | _one("datatier_updates_due_since_timestamp_seconds", "-1209300x100"),
        10,
        2,
    ),
    Fault("DatatierRebootRequired", _one("datatier_reboot_required", "1x1600"), 1441, 1439),
    Fault("DatatierOldBinary", _one("datatier_old_binary", "1x100"), 61, 59),
    Fault(
        "DatatierConfigRefused",
        _one("prometheus_config_last_reload_successful", "1x4 0x100"),
        6,
        3,
    ),
    Fault(
        "DatatierAlertUndelivered",
        _one("alertmanager_notifications_failed_total", "0x4 1x100"),
        7,
        3,
    ),
)

_FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def promtool_tests(rules: str) -> str:
    """A file for `promtool test rules`: each fault fires its alert, in its time, and no other.

    Args:
        rules: the path of the rules.
    """
    tests = [
        {
            "name": fault.alert,
            "interval": "1m",
            "input_series": [
                {"series": name, "values": values}
                for name, values in {**HEALTHY, **fault.series}.items()
                if values is not None
            ],
            "promql_expr_test": [
                {"expr": _FIRING, "eval_time": f"{fault.quiet}m", "exp_samples": []},
                {
                    "expr": _FIRING,
                    "eval_time": f"{fault.fires}m",
                    "exp_samples": [
                        {"labels": f'{{alertname="{fault.alert}"}}', "value": 1},
                    ],
                },
            ],
        }
        for fault in FAULTS
    ]
    return json.dumps({"rule_files": [rules], "evaluation_interval": "1m", "tests": tests})
