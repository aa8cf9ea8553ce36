"""How well a voice speaks: sentences, a recogniser, a naturalness model, and one table."""
