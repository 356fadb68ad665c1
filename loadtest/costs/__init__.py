"""What does each verdict cost? The processor time of the worker and of the database, for each reason."""
