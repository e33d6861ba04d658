"""The rows that a rank holds, and how they are packed into one forward."""
