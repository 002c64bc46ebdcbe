"""Named entities and hate speech in text: spans on the original characters, calibrated scores, bias in the open."""
