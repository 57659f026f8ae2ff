"""One module per process that is measured: it takes one JSON object as argument and prints one as its last line."""
