"""Where each row's KV is: pages, host slots, shared prefixes."""
