"""The C library, and students as plain C."""
