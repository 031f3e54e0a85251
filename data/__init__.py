"""Configuration, class lists and data sets."""
