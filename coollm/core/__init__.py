"""What both houses share: configuration, types, errors, paths, logs. It imports nothing of `coollm` above itself."""
