"""What breaks it: damage, kills, full disks. Not part of `make test`; each is run by hand and leaves a table."""
