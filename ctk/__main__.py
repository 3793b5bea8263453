"""`python -m ctk` is the same as `ctk`."""

from ctk.cli import main

main(prog_name="ctk")
