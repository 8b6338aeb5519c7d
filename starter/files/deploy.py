"""What lands where, as Datatier orders it; operations of your own may follow."""

from pyinfra import local

local.include("datatier/deploy.py")
