"""The program that runs on the backup host; a backup counts when it has been restored."""
