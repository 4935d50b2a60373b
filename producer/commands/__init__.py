"""The commands of the producer, a module for each group of them."""
