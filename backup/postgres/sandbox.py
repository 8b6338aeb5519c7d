"""Where a scratch PostgreSQL runs: as a user without rights, with no live path to be reached."""

from __future__ import annotations

import contextlib
import pwd
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backup.config import Config
from backup.job import Failed, run
from backup.postgres.repository import USER as KEEPER

# Nothing on a host belongs to it. It reads the repository as a member of its group.
USER = "datatier-scratch"
_SCRIPT = Path(__file__).with_name("sandbox.sh")
_ADD = ["useradd", "--system", "--gid", "nogroup", "--no-create-home", "--home-dir", "/nonexistent"]


@dataclass(frozen=True)
class Sandbox:
    """A directory of root's with one of the scratch user's in it, and the way to run things there.

    Attributes:
        home: root's: others than root cannot put a link in it; the keeper's group may enter.
        exposed: why live paths are not hidden here; empty where they are.
    """

    home: Path
    repository: Path
    exposed: str = ""

    @property
    def server(self) -> Path:
        """What belongs to the scratch user: data, socket, log."""
        return self.home / "server"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.server / "data"

    def run(self, *command: str | Path) -> str:
        """Runs a program as the scratch user.

        Raises:
            Failed: it exited with something else than 0.
        """
        apart = [] if self.exposed else self._apart()
        return run([*map(str, command)], through=[*_CLEAN, *apart, *_AS_USER])

    def _apart(self) -> list[str]:
        # Without a network as well: what was restored could know where to connect to.
        apart = ["unshare", "--mount", "--net", "--", "sh", str(_SCRIPT)]
        return [*apart, str(self.home), str(self.repository)]

    def probed(self) -> Sandbox:
        """The same, knowing whether the kernel lets us hide anything."""
        try:
            run(["true"], through=[*_CLEAN, *self._apart()])
        except Failed as failure:
            return replace(self, exposed=f"no mount namespace can be made ({failure})")
        return self

    def read(self, path: Path) -> str:
        """What a file of the scratch user's says; a link in it leads root nowhere."""
        return self.run("cat", path)

    def write(self, name: str, text: str) -> Path:
        """A file that only root can change, beside what belongs to the scratch user."""
        path = self.home / name
        path.write_text(text)
        path.chmod(0o640)
        shutil.chown(path, "root", KEEPER)
        return path

    def add(self, location: str) -> None:
        """Puts an empty directory of the scratch server's where a tablespace wants to be.

        Raises:
            Failed: only a namespace could do that, and there is none; or it is there already.
        """
        known = self._locations()
        what = f"the WAL creates a tablespace in {location}"
        if self.exposed:
            raise Failed(f"{what}, which a scratch server cannot have here: {self.exposed}")
        if not self._is_free(Path(location), known):
            raise Failed(f"{what}, which a scratch server cannot have")
        _made(self.home / f"location{len(known) + 1}", USER)
        self.write("locations", "".join(f"{each}\n" for each in [*known, location]))

    def _is_free(self, location: Path, known: Sequence[str]) -> bool:
        """Whether root alone decides where it leads: a link in what is shown leads out of there."""
        taken = (self.home, self.repository, *map(Path, ("/usr", "/etc", "/dev", *known)))
        return (
            location.is_absolute()
            and ".." not in location.parts
            and not any(location.is_relative_to(each) for each in taken)
        )

    def _locations(self) -> list[str]:
        return (self.home / "locations").read_text().splitlines()


# Without root's variables: LD_PRELOAD and the like, which name files that are not there.
_CLEAN = [
    *("env", "-i", "LC_ALL=C.UTF-8"),
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
]
_AS_USER = [
    *("setpriv", f"--reuid={USER}", f"--regid={KEEPER}", "--clear-groups"),
    *("--inh-caps=-all", "--no-new-privs"),
]


def make(config: Config, home: Path) -> Sandbox:
    """Makes a sandbox of an empty directory of root's.

    Raises:
        Failed: there is no user for it, and none can be made.
    """
    try:
        pwd.getpwnam(USER)
    except KeyError:
        run([*_ADD, "--shell", "/usr/sbin/nologin", USER])
    sandbox = Sandbox(home, config.repository)
    (home / "root").mkdir()
    shutil.chown(home, "root", KEEPER)
    home.chmod(0o750)
    _made(sandbox.server, USER, 0o750)
    sandbox.write("locations", "")
    return sandbox.probed()


def _made(directory: Path, owner: str, mode: int = 0o700) -> None:
    directory.mkdir()
    shutil.chown(directory, owner, KEEPER)
    directory.chmod(mode)


def stop(home: Path, pg_ctl: str) -> None:
    """Ends a server that was left running in a sandbox."""
    sandbox = Sandbox(home, home, exposed="nothing is read or written")
    with contextlib.suppress(Failed):
        sandbox.run(pg_ctl, "-D", sandbox.data, "-w", "-m", "immediate", "stop")
