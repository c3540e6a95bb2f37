"""One pass a file; ``qcompiler.pipeline.find_pass`` discovers them by name."""
