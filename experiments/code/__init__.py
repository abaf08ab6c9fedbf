"""Code: scored by HumanEval."""
