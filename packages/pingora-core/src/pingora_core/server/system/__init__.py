"""What a server asks of the operating system: background, pid file, privileges, systemd."""
