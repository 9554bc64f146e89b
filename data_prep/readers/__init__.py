"""One file a data set, each with only what is its publisher's own; `catalogue` lists them."""
