"""Running it: settings, the command line, embedded servers, supervision."""
