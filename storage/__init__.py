"""What is kept and what is passed on: the job table, the artifacts and the broker."""
