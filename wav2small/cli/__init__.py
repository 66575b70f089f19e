"""The command line: one module for each verb, whose options `options` reads from its function."""
