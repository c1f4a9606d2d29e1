"""HTML reports and pictures of what was fitted."""
