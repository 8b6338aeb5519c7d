"""pyinfra reads this before the inventory."""

from tasks.core import beginning

beginning.guard()
