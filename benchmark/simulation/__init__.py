"""Virtual time: recorded and made-up requests, what Steps cost, and the loop that serves them."""
