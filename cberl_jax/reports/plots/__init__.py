"""Pictures: each function draws what it is given; nothing is computed or chosen here."""
