"""What the domains of pentad share: cases, configuration, training, bundles, inference, evaluation, reports."""
