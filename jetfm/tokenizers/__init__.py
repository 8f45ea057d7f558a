"""From constituents to tokens and back."""
