"""Sound tagging and event detection in recordings of any length."""
