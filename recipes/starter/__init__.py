"""The starter: a one-megabyte chat model of our own, the sums it answers, and the script that made it."""
