"""Small command-line tools around the network; each one tells its options with --help."""
