"""A machine without an init of its own: runit, which we bring."""

from __future__ import annotations

from tasks.core.files import Directory, Entry, File, render
from tasks.core.places import Place, Service


class Runit(Place):
    """A directory for each service."""

    name = "runit"
    packages = ("runit",)

    def files(self, service: Service) -> list[Entry]:
        home = f"/etc/sv/{service.name}"
        entries: list[Entry] = [
            Directory(f"/var/log/{service.name}", "750"),
            Directory(home),
            Directory(f"{home}/log"),
        ]
        for name, text in _scripts(service).items():
            directories = [Directory(f"{home}/control")] if name == "control/t" else []
            entries += [*directories, File(f"{home}/{name}", text, "755")]
        return entries

    def program(self, service: str) -> str:
        return f"/etc/sv/{service}/run"

    def process(self, service: str) -> str:
        return f"cat /etc/sv/{service}/supervise/pid 2>/dev/null"

    def fingerprinted(self, service: Service) -> list[str]:
        ours = (v for k, v in _scripts(service).items() if k not in service.scripts)
        return ["".join(ours)]


def _scripts(service: Service) -> dict[str, str]:
    """The scripts of a service's directory."""
    stop = {"control/t": render("service/control-t.j2", service=service)}
    return {
        "run": render(service.run_template, service=service),
        "log/run": render("service/log-run.j2", service=service),
        **(stop if service.stop_signal else {}),
        **service.scripts,
    }


RUNIT = Runit()
