"""How long a test waits for a process before it says that the process hangs."""

# Seconds. It measures no speed: on a quiet machine the slowest process, all blocks of
# the guide, takes less than a tenth of it, and a busy machine may take the rest.
HANG = 1800
