"""The commands. They read the lake, call what notebooks call, and print."""
