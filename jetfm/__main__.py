"""``python -m jetfm``."""

from jetfm.cli import main

main()
