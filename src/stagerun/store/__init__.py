"""Memory: the schema, transactions as values, questions, and the drivers. Only here is SQLite."""
