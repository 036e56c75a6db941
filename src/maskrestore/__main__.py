"""``python -m maskrestore`` is the command ``maskrestore``."""

from maskrestore.cli.app import main

main()
