"""Real Debian hosts with systemd and SSH, as containers on this machine."""

from tests.lab.hosts import OPERATOR_PASSWORD, Host, Lab, find_hosts, remove_lab
from tests.lab.process import LabError

__all__ = ["OPERATOR_PASSWORD", "Host", "Lab", "LabError", "find_hosts", "remove_lab"]
