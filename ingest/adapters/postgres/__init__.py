"""The store in PostgreSQL: migrations, named queries, and the one transaction that moves everything."""
