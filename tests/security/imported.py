"""Nothing imports this: data that names it must not."""

raise AssertionError("a name that stood in data was imported")
