"""What trained members predict, and how it is measured."""
