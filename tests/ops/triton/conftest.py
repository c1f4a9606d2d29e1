"""Scripts that tests run in processes of their own, without the interpreter, are no modules to be collected here."""

collect_ignore = ["ahead_of_time.py", "compile_chains.py", "compile_segments.py"]
