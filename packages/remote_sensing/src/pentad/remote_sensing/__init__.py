"""Change detection in pairs of images of one place from above, taken at two dates."""
